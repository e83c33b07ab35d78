"""Thaw's client: fine-tune Keras models through a Thaw service.

    from thaw import Client

`thaw.client` shows how; `thaw --help` is the same for the command line. Importing this package loads nothing
else: the client (and with it the HTTP library) comes when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thaw.client import Client
    from thaw.errors import (
        ApiError,
        AuthenticationError,
        ConflictError,
        ConnectionFailedError,
        DownloadError,
        InvalidRequestError,
        NotFoundError,
        RateLimitedError,
        ServerError,
        ServiceNotFoundError,
        ThawClientError,
        TooLargeError,
        UnexpectedAnswerError,
        WaitTimeoutError,
        WorkFailedError,
    )

    __version__: str

__all__ = [
    "ApiError",
    "AuthenticationError",
    "Client",
    "ConflictError",
    "ConnectionFailedError",
    "DownloadError",
    "InvalidRequestError",
    "NotFoundError",
    "RateLimitedError",
    "ServerError",
    "ServiceNotFoundError",
    "ThawClientError",
    "TooLargeError",
    "UnexpectedAnswerError",
    "WaitTimeoutError",
    "WorkFailedError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Load what is asked for (PEP 562)."""
    if name == "__version__":
        return import_module("thaw.version").version()
    if name not in __all__:
        message = f"module 'thaw' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module("thaw.client" if name == "Client" else "thaw.errors"), name)


def __dir__() -> list[str]:
    return __all__
