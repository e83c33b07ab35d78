"""Lists: the first few as a table, or as one JSON document of the API's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from thaw.cli.output import Output

if TYPE_CHECKING:
    from thaw.records import Record


R = TypeVar("R", bound="Record")


def show(
    out: Output,
    found: Iterator[R],
    *,
    limit: int | None,
    columns: Sequence[str],
    row: Callable[[R], Sequence[object]],
    numbers: Sequence[str] = (),
) -> None:
    """Print the first `limit` records (`None`: all), and say whether there are more."""
    chosen = list(islice(found, limit))
    more = limit is not None and next(found, None) is not None
    if out.as_json:
        out.document({"object": "list", "data": [record.raw for record in chosen], "has_more": more})
        return
    if not chosen:
        out.note("There are none.")
        return
    out.table(columns, (row(record) for record in chosen), numbers=numbers)
    if more:
        out.note("There are more: --limit N, or --all.")
