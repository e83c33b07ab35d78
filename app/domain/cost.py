"""What layers cost, told from the layer table: a rough count that needs no Keras."""

import math
from collections.abc import Iterable

from app.domain.model import LayerRow

_VECTOR_RANK = 2


def multiply_adds(rows: Iterable[LayerRow]) -> int:
    """Multiplications of one example's way through these layers, each weight once for each position of its output.

    Right for dense and convolutional layers, and the order of magnitude for others. A position whose number is not
    known (pictures of any size) counts once, so the true count may be higher.
    """
    return sum(row.parameters * _positions(row.output_shape) for row in rows)


def _positions(shape: list[int | None] | list[list[int | None]] | None) -> int:
    """How many vectors a layer gives for an example: 1 for a dense layer, height times width for a convolution."""
    if not shape or len(shape) <= _VECTOR_RANK:
        return 1
    return math.prod(size for size in shape[1:-1] if isinstance(size, int))
