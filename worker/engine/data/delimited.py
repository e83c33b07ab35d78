"""CSV files: UTF-8, columns separated by comma, semicolon, tab or bar, their names in the first row (RFC 4180).

The separator is told from the first row. All values are read as texts; `columns` finds out which are numbers.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from app.domain.errors import DataError
from worker.engine.data.sheet import MAX_FIELD_BYTES, MAX_TABLE_BYTES, Sheet, check_names, check_rows, listed

SEPARATORS = (",", ";", "\t", "|")
HEADER_BYTES = 2**20
BLOCK_BYTES = 16 * 2**20
"""What is parsed at a time; one row must fit."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SAVE_AS = "Save it as CSV in UTF-8."


@dataclass
class _Ragged:
    """Collects rows with too many or too few fields; pyarrow calls it for each."""

    first: arrow_csv.InvalidRow | None = None
    count: int = 0
    rows: list[int] = field(default_factory=list)

    def __call__(self, row: arrow_csv.InvalidRow) -> str:
        self.first = self.first or row
        self.count += 1
        return "skip"


def looks_like_text(path: Path) -> bool:
    """Whether a file begins like text of any encoding: what is then wrong with it, `read_csv` says."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    return bool(start) and b"\x00" not in start and all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)


def read_csv(path: Path, *, max_bytes: int) -> Sheet:
    """Read a CSV file; DataError that names row and column of what is wrong."""
    size, limit = path.stat().st_size, min(max_bytes, MAX_TABLE_BYTES)
    if size > limit:
        message = f"The CSV file has {size:,} bytes; at most {limit:,} are read."
        raise DataError(message)
    names, separator, blank = _header(path)
    first = int(len(names) > 1 and not names[0])
    check_names(names[first:])
    columns = _parse(path, names, separator, blank).columns[first:]
    sheet = Sheet({}, first_row=2)
    texts = {name: _texts(column, name, sheet) for name, column in zip(names[first:], columns, strict=True)}
    _refuse_unclosed(path, list(texts.values()), sheet)
    warnings = ["The first column has no name and was left out: row numbers, as pandas writes them."]
    return check_rows(Sheet(texts, first_row=2, warnings=warnings if first else []))


# === First row ===


def _header(path: Path) -> tuple[list[str], str, int]:
    """The names of the columns, what separates them, and how many empty lines stand before them."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in start:
        message = f"The file is in UTF-16 or holds bytes that no text has. {_SAVE_AS}"
        raise DataError(message)
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end < len(start) - 4:
            _refuse_encoding("row 1" if b"\n" not in start[: error.start] else "", start[error.start])
        text = start[: error.start].decode("utf-8-sig")
    rows = text.lstrip("\r\n")
    if not rows:
        message = "The CSV file is empty; expected a row of column names and then one row for each example."
        raise DataError(message)
    first_line = rows.partition("\n")[0]
    separator = max(SEPARATORS, key=lambda mark: _outside_quotes(first_line, mark))
    names = [name.strip() for name in next(csv.reader(io.StringIO(rows), delimiter=separator))]
    if all(_NUMBER.fullmatch(name) for name in names):
        message = (
            f"The first row holds numbers only ({listed(names, most=5)}); expected the names of the columns. "
            "Put a row of names before it."
        )
        raise DataError(message)
    return names, separator, text[: len(text) - len(rows)].count("\n")


def _outside_quotes(line: str, mark: str) -> int:
    return re.sub(r'"[^"]*"', "", line).count(mark)


# === Rows ===


def _parse(path: Path, names: list[str], separator: str, blank_lines: int) -> pa.Table:
    ragged = _Ragged()
    places = [f"{position}" for position in range(len(names))]
    try:
        table = arrow_csv.read_csv(
            path,
            # One thread: only then does pyarrow know the numbers of rows.
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=places,
                skip_rows=blank_lines,
                skip_rows_after_names=1,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=ragged
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.binary()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "straddling" in str(error) or "block" in str(error):
            message = (
                f"A row of the CSV file is longer than {BLOCK_BYTES:,} bytes. Perhaps a quotation mark is never closed."
            )
            raise DataError(message) from error
        message = f"The CSV file cannot be read: {error}. {_SAVE_AS}"
        raise DataError(message) from error
    if ragged.first is not None:
        _refuse_ragged(ragged, ragged.first)
    return table


def _refuse_ragged(ragged: _Ragged, first: arrow_csv.InvalidRow) -> NoReturn:
    where = f"row {first.number}" if first.number else "a row"
    others = f" ({ragged.count} rows are so)" if ragged.count > 1 else ""
    message = (
        f"The CSV file has {first.expected_columns} columns, but {where} has {first.actual_columns} fields{others}: "
        f"{first.text[:80]!r}. Quote fields that hold the separator, and fill rows that are too short."
    )
    raise DataError(message)


def _refuse_unclosed(path: Path, columns: list[pa.ChunkedArray], sheet: Sheet) -> None:
    """A quotation mark that is never closed swallows all rows behind it, and pyarrow does not mind."""
    rows = len(columns[0])
    if not rows or not any("\n" in column[-1].as_py() for column in columns):
        return
    with path.open("rb") as file:
        marks = sum(block.count(b'"') for block in iter(lambda: file.read(BLOCK_BYTES), b""))
    if marks % 2:
        message = (
            f"A quotation mark in {sheet.row(rows - 1)} is never closed, so all rows behind it are lost. Close it."
        )
        raise DataError(message)


def _texts(column: pa.ChunkedArray, name: str, sheet: Sheet) -> pa.ChunkedArray:
    lengths = pc.binary_length(column)
    longest = pc.max(lengths).as_py() or 0
    if longest > MAX_FIELD_BYTES:
        where = sheet.row(pc.index(lengths, longest).as_py())
        message = (
            f"Column '{name}', {where}: the field has {longest:,} bytes; at most {MAX_FIELD_BYTES:,} are read. "
            "Perhaps a quotation mark is never closed."
        )
        raise DataError(message)
    if pc.any(pc.match_substring(column, b"\x00")).as_py():
        index = pc.index(pc.match_substring(column, b"\x00"), value=True).as_py()
        message = f"Column '{name}', {sheet.row(index)}: the field holds a zero byte, which no text has. {_SAVE_AS}"
        raise DataError(message)
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        for index, value in enumerate(column):
            _check_utf8(value.as_py(), f"column '{name}', {sheet.row(index)}")
        raise


def _check_utf8(value: bytes, where: str) -> None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        _refuse_encoding(where, value[error.start])


def _refuse_encoding(where: str, byte: int) -> NoReturn:
    message = f"The file is not UTF-8: the byte 0x{byte:02x}{where and ' in ' + where} is none. {_SAVE_AS}"
    raise DataError(message)
