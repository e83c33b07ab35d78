"""HTTP: thin routes over `app.services`, one table from error class to status."""
