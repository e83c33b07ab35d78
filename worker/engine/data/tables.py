"""Tables: CSV or Parquet files whose rows are examples, one vector of numbers each.

    file ──sheet──▶ columns ──split──▶ encoding, fitted on train ──▶ vectors (examples.npy)

What the rows were is kept beside the vectors: the exported model is checked on them.

    table.json        the fitted encoding, and every text of the columns of categories
    numbers.npy       float32 (n, columns of numbers), NaN where one is missing
    categories.npy    int32 (n, columns of categories): positions in those texts
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.domain.base import Value
from app.domain.dataset import DatasetOptions, TableColumn
from app.domain.errors import DataError
from worker.engine.data import encoding
from worker.engine.data.columns import (
    Categories,
    Column,
    Numbers,
    feature_names,
    read_column,
    read_targets,
    target_names,
)
from worker.engine.data.encoding import Encoding
from worker.engine.data.found import Array, ExampleWriter, Found, Indices, Labels, digest_example, save_array
from worker.engine.data.labels import read_labels
from worker.engine.data.sheet import Sheet

CHUNK_ROWS = 2**14
MAX_FEATURES = 20_000
SURELY_CLASSES = 50
"""Whole numbers with more different values than this are classes or amounts, and only a person can tell."""


class StoredTable(Value):
    """What `table.json` holds."""

    encoding: Encoding
    distinct: list[list[str]]
    """For each column of categories, in the encoding's order, what its codes mean."""


@dataclass(frozen=True)
class Rows:
    """The raw rows of a table."""

    columns: Sequence[Column]
    standardize: bool

    @property
    def numbers(self) -> Array:
        """float32 `(n, columns of numbers)`."""
        found = [column.values for column in self.columns if isinstance(column, Numbers)]
        return np.stack(found, axis=1) if found else np.empty((self._count, 0), np.float32)

    @property
    def categories(self) -> list[Categories]:
        """The columns of categories."""
        return [column for column in self.columns if isinstance(column, Categories)]

    @property
    def _count(self) -> int:
        first = self.columns[0]
        return len(first.values if isinstance(first, Numbers) else first.codes)


@dataclass(frozen=True)
class RowNumbers(Sequence[str]):
    """Names of examples such as `row 17`, made when asked for."""

    sheet: Sheet

    def __len__(self) -> int:
        return len(self.sheet)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # nobody slices names
        return self.sheet.row(range(len(self))[index])


def read_table(sheet: Sheet, options: DatasetOptions) -> tuple[Found, Rows]:
    """What a table holds; DataError if it cannot be used. Its vectors are made by `write_table`, after the split."""
    names = feature_names(sheet, target_names(sheet, options), options)
    _, labels = labels_of(sheet, options)
    columns, warnings = _columns(sheet, names, options)
    rows = Rows(columns, options.standardize)
    contents = _digests(rows)
    found = Found(
        kind="table",
        names=RowNumbers(sheet),
        contents=contents,
        stored=contents,
        brought=[None] * len(sheet),
        labels=labels,
        shapes=np.zeros((len(sheet), 1), np.int32),  # known when the encoding is
        dtype="float32",
        value_range=(0.0, 0.0),
        warnings=[*sheet.warnings, *warnings],
    )
    return found, rows


def write_table(found: Found, rows: Rows, indices: Indices, folder: Path, *, max_bytes: int) -> Found:
    """Fit the encoding on the training split, write vectors and rows; what was found, with their width and range."""
    fitted = encoding.fit(rows.columns, indices["train"], standardize=rows.standardize)
    features = fitted.features
    _refuse_wide(features, len(found.contents), max_bytes)
    value_range = _write_vectors(fitted, rows, folder / "examples.npy", max_bytes)
    table = StoredTable(encoding=fitted, distinct=[column.distinct for column in rows.categories])
    (folder / "table.json").write_text(table.model_dump_json(), encoding="utf-8")
    codes = [column.codes for column in rows.categories]
    save_array(folder / "numbers.npy", rows.numbers)
    save_array(
        folder / "categories.npy", np.stack(codes, axis=1) if codes else np.empty((len(found.contents), 0), "i4")
    )
    return replace(
        found,
        shapes=np.full((len(found.contents), 1), len(features), np.int32),
        value_range=value_range,
        features=features,
        encoding=fitted.model_dump_json(),
        columns=[_described(column, fitted) for column in rows.columns],
    )


# === Reading ===


def labels_of(sheet: Sheet, options: DatasetOptions) -> tuple[list[str], Labels]:
    """The columns to predict, and what they mean; DataError where only a person can tell."""
    targets = target_names(sheet, options)
    y = read_targets(sheet, targets)
    _refuse_doubt(y, targets, options)
    return targets, read_labels(y, options)


def _refuse_doubt(y: Array, targets: Sequence[str], options: DatasetOptions) -> None:
    if options.task or options.class_names or y.ndim > 1 or y.dtype.kind not in "iu":
        return
    different = len(np.unique(y))
    if different > SURELY_CLASSES:
        message = (
            f"The target '{targets[0]}' has {different:,} different whole numbers: they may be classes or amounts. "
            "Set task to 'single_label' or to 'regression'."
        )
        raise DataError(message, param="task")


def _columns(sheet: Sheet, names: Sequence[str], options: DatasetOptions) -> tuple[list[Column], list[str]]:
    columns: list[Column] = []
    warnings = []
    for name in names:
        column = read_column(sheet, name, options)
        if isinstance(column, str):
            warnings.append(f"The column '{name}' was left out: {column}.")
        else:
            columns.append(column)
    if not columns:
        message = f"No column is left to predict from. {' '.join(warnings)}"
        raise DataError(message)
    return columns, warnings


def _digests(rows: Rows) -> list[bytes]:
    """sha256 of each row, its columns' names included: equal rows land in the same split."""
    names = digest_example(np.array([column.name for column in rows.columns]))
    numbers, categories = rows.numbers, rows.categories
    texts = [[digest_example(np.array([text])) for text in column.distinct] for column in categories]
    return [
        hashlib.sha256(
            names
            + numbers[index].tobytes()
            + b"".join(known[column.codes[index]] for known, column in zip(texts, categories, strict=True))
        ).digest()
        for index in range(len(numbers))
    ]


# === Writing ===


def _refuse_wide(features: Sequence[str], rows: int, max_bytes: int) -> None:
    if len(features) > MAX_FEATURES or 4 * rows * len(features) > max_bytes:
        message = (
            f"The table becomes {rows:,} vectors of {len(features):,} numbers, {4 * rows * len(features):,} bytes; at "
            f"most {MAX_FEATURES:,} numbers and {max_bytes:,} bytes are stored. Drop columns with many categories."
        )
        raise DataError(message)


def _write_vectors(fitted: Encoding, rows: Rows, path: Path, max_bytes: int) -> tuple[float, float]:
    numbers, categories = rows.numbers, rows.categories
    low, high = math.inf, -math.inf
    writer = ExampleWriter(path, "float32", max_bytes=max_bytes)
    try:
        for start in range(0, len(numbers), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            vectors = fitted.apply(numbers[chunk], [(column.codes[chunk], column.distinct) for column in categories])
            writer.append(vectors)
            low, high = min(low, float(vectors.min())), max(high, float(vectors.max()))
    finally:
        writer.close()
    return low, high


def _described(column: Column, fitted: Encoding) -> TableColumn:
    if isinstance(column, Numbers):
        return TableColumn(name=column.name, type="number", missing=column.missing)
    vocabulary = next(fit.vocabulary for fit in fitted.categories if fit.name == column.name)
    return TableColumn(name=column.name, type="category", missing=column.missing, categories=len(vocabulary))
