"""The tests. A package, so that `python -m tests.chaos` finds this one and no other package's tests."""
