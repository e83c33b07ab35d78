"""Parquet files: columns of texts, numbers and bools.

A few kilobytes of Parquet may say that they unpack to terabytes, so rows are counted and bytes are added up while
they are read: texts packed by their distinct values (dictionary encoding), before they are unpacked.
"""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from app.domain.errors import DataError
from worker.engine.data.sheet import MAX_TABLE_BYTES, Sheet, check_names, check_rows

MAGIC = b"PAR1"
BATCH_ROWS = 2**14
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_ADVICE = "Write the file again, or as CSV."


def looks_like_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_parquet(path: Path, *, max_bytes: int) -> Sheet:
    """Read the columns that can be used; DataError if the file is damaged or unpacks to too much."""
    limit = min(max_bytes, MAX_TABLE_BYTES)
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_names(schema.names)
            usable = [
                field.name for field in schema if _is_usable(field.type) and not _PANDAS_INDEX.fullmatch(field.name)
            ]
            _check_size(file, len(usable), limit)
            texts = [name for name in usable if _is_text(schema.field(name).type)]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            columns = _columns(file, usable, limit)
    except (pa.ArrowException, OSError) as error:
        message = f"The Parquet file cannot be read: {_first_line(error)}. {_ADVICE}"
        raise DataError(message) from error
    left_out = [f"'{field.name}' ({field.type})" for field in schema if field.name not in usable]
    note = f"Columns without texts or numbers of examples were left out: {', '.join(left_out[:10])}."
    return check_rows(Sheet(columns, first_row=1, warnings=[note] if left_out else []))


def _check_size(file: parquet.ParquetFile, columns: int, limit: int) -> None:
    rows = file.metadata.num_rows
    if not columns:
        message = f"The Parquet file has no column of texts, numbers or bools. {_ADVICE}"
        raise DataError(message)
    if 8 * rows * columns > limit:
        message = f"The Parquet file has {rows:,} rows of {columns:,} columns, more than the {limit:,} bytes allowed."
        raise DataError(message)


def _columns(file: parquet.ParquetFile, names: list[str], limit: int) -> dict[str, pa.ChunkedArray]:
    batches, total = [], 0
    for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
        total += batch.nbytes + sum(_unpacked_bytes(column) for column in batch.columns)
        if total > limit:
            message = f"The Parquet file unpacks to more than {limit:,} bytes, the limit here."
            raise DataError(message)
        batches.append(batch)
    schema = batches[0].schema if batches else pa.schema([(name, pa.string()) for name in names])
    table = pa.Table.from_batches(batches, schema)
    return {name: _plain(table.column(name)) for name in names}


def _unpacked_bytes(column: pa.Array) -> int:
    """Bytes of texts that are packed by their distinct values."""
    if not pa.types.is_dictionary(column.type):
        return 0
    lengths = pc.binary_length(column.dictionary)
    return pc.sum(pc.take(lengths, column.indices)).as_py() or 0


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64())
    return column.cast(pa.string()) if _is_text(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_usable(kind: pa.DataType) -> bool:
    types = pa.types
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return bool(numbers or _is_text(kind))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
