"""The encoding of a table as plain Keras layers: what stands before an exported model, so that it takes raw rows.

    column of numbers ─┐
    column of numbers ─┴▶ numbers ─ fill ─ standardize ─┐
                            └─ which are missing ───────┼▶ vector
    column of texts ─ one number for each category ─────┘

Every column is an input of its own, `(batch, 1)` and named like the column as far as names go: float32, NaN where a
value is missing, or string, empty where one is. The arithmetic is `Encoding.apply`'s, operation by operation.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from worker.engine.data.encoding import CategoryFit, Encoding, NumberFit

Tensor = Any
"""A symbolic tensor of Keras, which has no types."""
Fresh = Callable[[str], str]
"""Makes of a wish a name that no layer has yet."""

_UNKNOWN = "[unknown]"
_NO_WORD = re.compile(r"[^A-Za-z0-9_]+")


def raw_inputs(encoding: Encoding, *, fresh: Fresh) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of an exported model by their columns, and the vector `(batch, features)` made of them."""
    numbers = [_input(column, "float32", fresh) for column in encoding.numbers]
    texts = [_input(column, "string", fresh) for column in encoding.categories]
    parts = [
        *(_numbers(encoding, numbers, fresh) if numbers else []),
        *(_one_hot(column, text, fresh) for column, text in zip(encoding.categories, texts, strict=True)),
    ]
    names = [*(column.name for column in encoding.numbers), *(column.name for column in encoding.categories)]
    return dict(zip(names, (*numbers, *texts), strict=True)), _joined(parts, fresh("features"))


def _input(column: NumberFit | CategoryFit, dtype: str, fresh: Fresh) -> Tensor:
    return keras.Input((1,), dtype=dtype, name=fresh(input_name(column.name)))


def input_name(column: str) -> str:
    """A column's name in letters of a to z, digits and `_`, a letter first: TensorFlow's signatures take no others."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", column) if not unicodedata.combining(letter))
    name = _NO_WORD.sub("_", letters).strip("_")
    return name if name[:1].isalpha() else f"column_{name}".rstrip("_")


def _numbers(encoding: Encoding, inputs: list[Tensor], fresh: Fresh) -> list[Tensor]:
    """The filled numbers, and which of them were missing."""
    raw = _joined(inputs, fresh("numbers"))
    missing = _named(ops.isnan(raw), fresh("missing"))
    filled = _named(ops.where(missing, encoding.medians[None], raw), fresh("fill"))
    if encoding.standardize:
        mean, variance = encoding.means.tolist(), encoding.variances.tolist()
        filled = layers.Normalization(mean=mean, variance=variance, name=fresh("standardize"))(filled)
    flagged = [column.flagged for column in encoding.numbers]
    if not any(flagged):
        return [filled]
    of_flagged = [tensor for tensor, its in zip(inputs, flagged, strict=True) if its]
    flags = _named(ops.isnan(_joined(of_flagged, fresh("can_be_missing"))), fresh("which_are_missing"))
    return [filled, _named(ops.cast(flags, "float32"), fresh("missing_flags"))]


def _one_hot(column: CategoryFit, text: Tensor, fresh: Fresh) -> Tensor:
    unknown = _UNKNOWN
    while unknown in column.vocabulary:
        unknown = f"[{unknown}]"
    hot = layers.StringLookup(
        vocabulary=column.vocabulary,
        mask_token=None,
        oov_token=unknown,
        output_mode="one_hot",
        name=fresh(f"categories_of_{text.name}"),
    )(text)
    # The first number says that the category is unknown.
    return hot if column.other else _named(hot[:, 1:], fresh(f"known_{text.name}"))


def _joined(tensors: list[Tensor], name: str) -> Tensor:
    return tensors[0] if len(tensors) == 1 else layers.Concatenate(name=name)(tensors)


def _named(tensor: Tensor, name: str) -> Tensor:
    """Functions on tensors get numbered names, which a source may have too."""
    tensor._keras_history.operation.name = name  # noqa: SLF001 (no public way)
    return tensor
