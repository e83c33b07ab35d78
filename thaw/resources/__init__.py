"""The service's resources, one class each: `client.files`, `client.models`, `client.datasets`, `client.jobs`."""
