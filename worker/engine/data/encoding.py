"""How the rows of a table become vectors: fitted on the training split alone, applied to all, exported with the model.

    numbers                   missing ones filled with the median, then standardized
    which numbers are missing one number, 0 or 1, for each column that has missing values in the training split
    categories                one number, 0 or 1, for each category of the training split; the empty text is one

A category that the training split lacks gives zeros; only where a column has more than `MAX_CATEGORIES` are all but
the most frequent ones taken together as `(other)`, and unknown ones with them.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from app.domain.base import Value
from worker.engine.data.columns import Categories, Numbers
from worker.engine.data.found import Array

MAX_CATEGORIES = 1_000
EPSILON = 1e-7
"""Of Keras' Normalization."""
OTHER = "(other)"
MISSING = "(missing)"


class NumberFit(Value):
    """What the training split says about a column of numbers."""

    name: str
    median: float
    mean: float
    """After filling."""
    variance: float
    flagged: bool
    """Whether the training split has missing values, so that there is a number to say so."""


class CategoryFit(Value):
    """What the training split says about a column of categories."""

    name: str
    vocabulary: list[str]
    """Its categories, sorted; all others are unknown."""
    other: bool
    """Whether the training split has categories besides these."""


class Encoding(Value):
    """The fitted preprocessing of a table."""

    numbers: list[NumberFit]
    categories: list[CategoryFit]
    standardize: bool

    @property
    def features(self) -> list[str]:
        """What the numbers of a vector mean, in their order."""
        return [
            *(column.name for column in self.numbers),
            *(f"{column.name} is missing" for column in self.numbers if column.flagged),
            *(f"{column.name}={text}" for column in self.categories for text in _texts(column)),
        ]

    def apply(self, numbers: Array, categories: Sequence[tuple[Array, Sequence[str]]]) -> Array:
        """float32 `(n, features)` from raw rows.

        `numbers`: float32 `(n, columns)`, NaN where one is missing; `categories`: for each column the codes `(n,)` and
        what they mean. In float32, one operation after the other, as the exported layers do it.
        """
        missing = np.isnan(numbers)
        filled = np.where(missing, self.medians, numbers)
        if self.standardize and self.numbers:
            filled = (filled - self.means) / np.maximum(np.sqrt(self.variances), np.float32(EPSILON))
        flags = missing[:, [column.flagged for column in self.numbers]].astype(np.float32)
        hot = [
            _one_hot(column, codes, distinct)
            for column, (codes, distinct) in zip(self.categories, categories, strict=True)
        ]
        return np.concatenate([filled, flags, *hot], axis=1, dtype=np.float32)

    @property
    def medians(self) -> Array:
        """float32 `(columns,)`."""
        return np.array([column.median for column in self.numbers], np.float32)

    @property
    def means(self) -> Array:
        """float32 `(columns,)`."""
        return np.array([column.mean for column in self.numbers], np.float32)

    @property
    def variances(self) -> Array:
        """float32 `(columns,)`."""
        return np.array([column.variance for column in self.numbers], np.float32)


def fit(columns: Sequence[Numbers | Categories], train: Array, *, standardize: bool) -> Encoding:
    """Fit on the rows `train` (their positions), and look at no others."""
    return Encoding(
        numbers=[_fit_numbers(column, train) for column in columns if isinstance(column, Numbers)],
        categories=[_fit_categories(column, train) for column in columns if isinstance(column, Categories)],
        standardize=standardize,
    )


def _fit_numbers(column: Numbers, train: Array) -> NumberFit:
    values = np.sort(column.values[train]).astype(np.float64)  # sums must not depend on the order of the file
    missing = np.isnan(values)
    median = float(np.float32(np.median(values[~missing]))) if not missing.all() else 0.0
    filled = np.where(missing, median, values)
    variance = float(np.float32(filled.var()))
    return NumberFit(
        name=column.name,
        median=median,
        mean=float(np.float32(filled.mean())),
        # A column that never changes is brought to 0, and what is new in it later is not blown up.
        variance=variance if variance > 0 and np.isfinite(variance) else 1.0,
        flagged=bool(missing.any()),
    )


def _fit_categories(column: Categories, train: Array) -> CategoryFit:
    counts = Counter(column.codes[train].tolist())
    kept = sorted(counts, key=lambda code: (-counts[code], code))[:MAX_CATEGORIES]
    return CategoryFit(
        name=column.name, vocabulary=[column.distinct[code] for code in sorted(kept)], other=len(kept) < len(counts)
    )


def _texts(column: CategoryFit) -> list[str]:
    return [*([OTHER] if column.other else []), *(text or MISSING for text in column.vocabulary)]


def _one_hot(column: CategoryFit, codes: Array, distinct: Sequence[str]) -> Array:
    """float32 `(n, …)`: first the number for all others, if there is one, then the vocabulary."""
    place = {text: index for index, text in enumerate(column.vocabulary, start=1)}
    places = np.array([place.get(text, 0) for text in distinct])
    hot = np.eye(len(column.vocabulary) + 1, dtype=np.float32)[places[codes]]
    return hot if column.other else hot[:, 1:]
