"""What layers cost: a rough count that needs no Keras."""

import math
from collections.abc import Sequence

_VECTOR_RANK = 2


def multiply_adds(parameters: int, output_shape: Sequence[int | None]) -> int:
    """Multiplications of one example's way through a layer, each weight once for each position of its output.

    `output_shape` with the batch axis. Right for dense and convolutional layers, and the order of magnitude for
    others. A position whose number is not known (pictures of any size) counts once: the true count may be higher.
    """
    positions = output_shape[1:-1] if len(output_shape) > _VECTOR_RANK else ()
    return parameters * math.prod(size for size in positions if size is not None)
