"""A table as it stands in a file: named columns, before anything is known about what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from app.domain.errors import DataError

MAX_COLUMNS = 2_000
MAX_NAME_CHARACTERS = 200
MAX_FIELD_BYTES = 2**20
MAX_TABLE_BYTES = 4 * 2**30
"""A table is read into memory as a whole."""


@dataclass(frozen=True)
class Sheet:
    """The columns of a file, all of one length."""

    columns: Mapping[str, pa.ChunkedArray]
    """Texts, floats, integers, bools; of a CSV file texts only."""
    first_row: int
    """The number of the first row: 2 where the header counts as a row, as in spreadsheets."""
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, index: int) -> str:
        """What people call the row: `row 17`."""
        return f"row {self.first_row + index}"


def check_names(names: list[str]) -> None:
    """DataError where columns cannot be told apart by their names, or there are too many."""
    if len(names) > MAX_COLUMNS:
        message = f"The table has {len(names):,} columns; at most {MAX_COLUMNS:,} are read. Is it the right way round?"
        raise DataError(message)
    for position, name in enumerate(names, start=1):
        _check_name(name, position)
        if names.index(name) != position - 1:
            first = names.index(name) + 1
            message = f"The column name '{name}' stands twice, in columns {first} and {position}. Rename one of them."
            raise DataError(message)


def _check_name(name: str, position: int) -> None:
    if not name:
        message = f"Column {position} has no name. Give every column a name in the first row."
        raise DataError(message)
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        message = (
            f"The name of column {position}, {name[:40]!r}, is not printable text of at most {MAX_NAME_CHARACTERS} "
            "characters. Is the first row really a row of names?"
        )
        raise DataError(message)


def check_rows(sheet: Sheet) -> Sheet:
    """The same sheet; DataError where it has no rows."""
    if not len(sheet):
        message = f"The table has no rows, only the columns {listed(list(sheet.columns))}."
        raise DataError(message)
    return sheet


def listed(names: list[str], *, most: int = 20) -> str:
    """Names for a sentence, not too many of them."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
