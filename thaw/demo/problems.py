"""Why the demo could not be finished."""


class DemoError(Exception):
    """Said to the person as it is; the exit code is 1."""
