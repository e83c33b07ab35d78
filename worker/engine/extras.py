"""Libraries that not every worker has, because an extra brings them."""

import importlib
from typing import Any

from app.domain.errors import PlatformError


class MissingExtraError(PlatformError):
    """Trying again does not help."""

    code = "extra_missing"
    retryable = False


def load(module: str, *, extra: str, to: str, instead: str) -> Any:  # noqa: ANN401 (type checks must not need it)
    """Import a library. Raises `MissingExtraError`: this worker cannot do that, install the extra, or do this."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = (
            f"This worker cannot {to}: it lacks the extra '{extra}'. Install it there (pip install 'thaw[{extra}]'), "
            f"or {instead}."
        )
        raise MissingExtraError(message) from error
