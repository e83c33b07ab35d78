"""Texts: CSV or Parquet files with a column of texts and one of labels, for sources that take strings.

A text is stored as it is, in UTF-8; what is done to it (lower case, words, vocabulary) is the source's business.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.domain.dataset import DatasetOptions
from app.domain.errors import DataError
from worker.engine.data.columns import TARGET_NAMES, as_numbers
from worker.engine.data.found import Array, ExampleWriter, Found, digest_example
from worker.engine.data.sheet import Sheet, listed
from worker.engine.data.tables import RowNumbers, labels_of

TEXT_NAME = "text"
_FOR_COLUMNS = ("columns", "drop", "categorical")


def looks_like_texts(sheet: Sheet, options: DatasetOptions) -> bool:
    """Whether the rows are texts with a label: so it was said, or the columns are called so."""
    if options.kind is not None or options.text is not None:
        return options.kind in (None, "text")
    if any(getattr(options, name) is not None for name in _FOR_COLUMNS):
        return False
    names = {name.lower(): name for name in sheet.columns}
    labelled = bool(options.targets()) or any(name in names for name in TARGET_NAMES)
    return labelled and TEXT_NAME in names and as_numbers(sheet, names[TEXT_NAME]) is None


def read_texts(sheet: Sheet, options: DatasetOptions, writer: ExampleWriter) -> Found:
    """Write every text; DataError if the columns cannot be used."""
    name = _text_column(sheet, options)
    targets, labels = labels_of(sheet, options)
    if name in targets:
        message = f"The column '{name}' holds the texts, so it cannot be the target as well."
        raise DataError(message, param="target")
    texts = _texts(sheet, name)
    contents, lengths = _write(texts, writer)
    unused = [other for other in sheet.columns if other not in (name, *targets)]
    return Found(
        kind="text",
        names=RowNumbers(sheet),
        contents=contents,
        stored=contents,
        brought=[None] * len(sheet),
        labels=labels,
        shapes=np.array(lengths, np.int32)[:, None],
        dtype="string",
        value_range=None,
        warnings=[
            *sheet.warnings,
            *([f"Columns besides text and label were left out: {listed(unused)}."] * bool(unused)),
        ],
    )


def _text_column(sheet: Sheet, options: DatasetOptions) -> str:
    names = {name.lower(): name for name in sheet.columns}
    name = options.text or names.get(TEXT_NAME)
    if name is None or name not in sheet.columns:
        lacking = f"The file has no column '{name}'" if name else "No column is called 'text'"
        message = f"Which column holds the texts? {lacking}. Set text to one of {listed(list(sheet.columns))}."
        raise DataError(message, param="text")
    return name


def _texts(sheet: Sheet, name: str) -> pa.ChunkedArray:
    values = sheet.columns[name]
    if not pa.types.is_string(values.type):
        message = f"The column '{name}' holds {values.type}, not texts."
        raise DataError(message, param="text")
    empty = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(values, "")), "")
    if pc.any(empty).as_py():
        message = (
            f"The column '{name}' has no text in {sheet.row(pc.index(empty, value=True).as_py())} "
            f"({pc.sum(empty).as_py()} such rows). Fill it or remove those rows."
        )
        raise DataError(message)
    return values


def _write(texts: pa.ChunkedArray, writer: ExampleWriter) -> tuple[list[bytes], Sequence[int]]:
    contents, lengths = [], []
    for text in texts:
        encoded: Array = np.frombuffer(text.as_py().encode(), np.uint8)
        if not writer.fits(encoded.size):
            message = f"The texts take more than {writer.max_bytes:,} bytes, the limit here."
            raise DataError(message)
        writer.append(encoded)
        contents.append(digest_example(encoded))
        lengths.append(encoded.size)
    return contents, lengths
