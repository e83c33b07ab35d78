"""Lists: pages are fetched as they are needed."""

from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

from thaw.connection import Connection, Parameters
from thaw.errors import UnexpectedAnswerError
from thaw.records import Record, read

R = TypeVar("R", bound=Record)
Order = Literal["asc", "desc"]
"""By time of creation: `desc` is newest first."""

PAGE = 100
"""The most that the service gives at once."""


def every(kind: type[R], connection: Connection, path: str, parameters: Parameters | None = None) -> Iterator[R]:
    """Yield everything that the list at `path` has, page by page."""
    after: str | None = None
    while True:
        page = connection.get(path, parameters={"limit": PAGE, **(parameters or {}), "after": after})
        yield from entries(kind, page)
        last = page.get("last_id")
        if not page.get("has_more") or not isinstance(last, str):
            return
        after = last


def entries(kind: type[R], page: Mapping[str, object]) -> list[R]:
    """The entries of one page."""
    data = page.get("data")
    if not isinstance(data, list):
        message = f"The service should have answered with a list of {kind.__name__}, but sent none."
        raise UnexpectedAnswerError(message)
    return [read(kind, entry) for entry in data]
