"""The version of this package, as it was installed."""

from functools import cache


@cache
def version() -> str:
    """The installed version; `0+unknown` where the package is on the path without being installed."""
    # Loading importlib.metadata takes about 20 ms, which commands that print no version should not pay.
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("thaw")
    except PackageNotFoundError:
        return "0+unknown"
