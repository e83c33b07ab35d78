"""The rows that a head would add to a layer table: names, shapes and weights, told without Keras.

The engine's `surgery.attach_head` builds the same layers; a test compares them.
"""

import math
from collections.abc import Sequence

from app.domain.dataset import DatasetInfo
from app.domain.head import VECTOR_RANK, Head, HeadBatchNormalization, HeadDense, HeadDropout, HeadLayer
from app.domain.model import LayerRow
from app.domain.naming import Names

OUTPUT = "output"
_POOLING = {
    "global_average_pooling": "GlobalAveragePooling",
    "global_max_pooling": "GlobalMaxPooling",
}
_CLASSES = {
    "dense": "Dense",
    "dropout": "Dropout",
    "batch_normalization": "BatchNormalization",
    "layer_normalization": "LayerNormalization",
    "activation": "Activation",
    "flatten": "Flatten",
}


def head_rows(
    source: Sequence[LayerRow], end: LayerRow, head: Head, data: DatasetInfo, *, backbone: Sequence[LayerRow]
) -> list[LayerRow]:
    """The head's rows from below, output layer included; `end` is the backbone's row that they sit on.

    Their indices go on where the source's table ends.

    Shapes have `None` where the backbone takes inputs of any size; then nothing is known of a layer's weights
    either, and they count as none.
    """
    made: list[LayerRow] = []
    below = end.index
    names = Names(row.path.partition("/")[0] for row in backbone)
    shape, first = _flat_shape(end), source[-1].index + 1
    for wish in head.on(len(shape)):
        name = names.fresh(f"head_{wish.type}")
        row = _row(wish, first + len(made), name, shape, below=below)
        shape, below = _flat_shape(row), row.index
        made.append(row)
    output = HeadDense(type="dense", units=outputs(data), activation="linear")
    return [*made, _row(output, first + len(made), names.fresh(OUTPUT), shape, below=below)]


def outputs(data: DatasetInfo) -> int:
    """Numbers that the output layer gives for an example."""
    return len(data.classes or ()) if data.task in ("single_label", "multi_label") else data.targets


def _row(wish: HeadLayer, index: int, name: str, given: list[int | None], *, below: int) -> LayerRow:
    shape = _shape_after(wish, given)
    parameters, trainable = _parameters(wish, given[-1] or 0)
    pooling = f"{_POOLING[wish.type]}{len(given) - VECTOR_RANK}D" if wish.type in _POOLING else None
    return LayerRow(
        index=index,
        path=name,
        class_name=pooling or _CLASSES[wish.type],
        output_shape=shape,
        parameters=parameters,
        has_weights=parameters > 0,
        legal_cut=False,
        inputs=[below],
        trainable_parameters=trainable,
        stochastic=isinstance(wish, HeadDropout) and wish.rate > 0,
        batch_norm=isinstance(wish, HeadBatchNormalization),
    )


def _shape_after(wish: HeadLayer, given: list[int | None]) -> list[int | None]:
    if isinstance(wish, HeadDense):
        return [*given[:-1], wish.units]
    if wish.type in _POOLING:
        return [None, given[-1]]
    if wish.type == "flatten":
        known = [side for side in given[1:] if side is not None]
        return [None, math.prod(known) if len(known) == len(given) - 1 else None]
    return given


def _parameters(wish: HeadLayer, channels: int) -> tuple[int, int]:
    """All numbers in its weights, and those that train."""
    if isinstance(wish, HeadDense):
        # No features are known only where the head does not fit, which the engine refuses.
        count = (channels + 1) * wish.units if channels else 0
        return count, count
    if wish.type == "batch_normalization":
        return 4 * channels, 2 * channels
    if wish.type == "layer_normalization":
        return 2 * channels, 2 * channels
    return 0, 0


def _flat_shape(row: LayerRow) -> list[int | None]:
    """A layer that a head sits on has one output, and so one flat shape."""
    return [side for side in row.output_shape or [None, None] if not isinstance(side, list)]
