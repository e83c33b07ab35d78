"""Where things live: all SQL, one repository for each noun; the artifact store; migrations.

Rules of this package:

- Every row that belongs to somebody has a project, and every function here that reads or changes such rows takes the
  project and names it in its statement. Only a worker starts from a bare id (a hint carries nothing else): it asks
  `leases.project_of` first and names that project from then on. Sweeping is the platform's own work over all
  projects: `leases.expired`, `leases.unrung` and `jobs.decided` return the project of each row, and every change
  that follows names it. Workers serve all projects, so `WorkerRow` has none.
- The same statements run on SQLite and PostgreSQL.
- Time is the database's (`database.now`); no process compares its own clock with a lease.
- Transactions are opened by `app.services`, never here.
"""
