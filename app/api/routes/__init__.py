"""The routes, one module for each resource. They translate; what happens is in `app.services`."""
