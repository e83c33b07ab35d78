"""What layers cost: a rough count that needs no Keras."""

import math
from collections.abc import Sequence

_VECTOR_RANK = 2
_SHRUNK = 32
"""How much shorter a picture's sides are at the top of the usual networks."""


def multiply_adds(parameters: int, output_shape: Sequence[int | None], example_shape: Sequence[int] = ()) -> int:
    """Multiplications of one example's way through a layer, each weight once for each position of its output.

    `output_shape` with the batch axis, `example_shape`, what the model is given, without. Right for dense and
    convolutional layers, and the order of magnitude for others. Where a model takes pictures of any size, a side of a
    layer's output is taken for as short as at the top of usual networks: the true count is higher.
    """
    positions = output_shape[1:-1] if len(output_shape) > _VECTOR_RANK else ()
    given = example_shape if len(example_shape) == len(output_shape) - 1 else (1,) * len(positions)
    sides = zip(positions, given, strict=False)
    return parameters * math.prod(math.ceil(example / _SHRUNK) if side is None else side for side, example in sides)
