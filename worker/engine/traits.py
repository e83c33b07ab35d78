"""What the layer table says of an operation besides its shape: what training may change in it, and how."""

import math
from typing import Any

import keras

from worker.engine.graph import Operation


def trainable_parameters(operation: Operation) -> int:
    """Numbers in the weights that training may change, whatever the file says of `trainable`."""
    # A layer's own list holds its variables as they were made; `trainable_weights` is empty once it is frozen.
    variables = [variable for layer in _parts(operation) for variable in layer._trainable_variables]  # noqa: SLF001 (no public way)
    return sum(math.prod(variable.shape) for variable in variables)


def is_stochastic(operation: Operation) -> bool:
    """Whether it draws at random while training, as layers with a seed generator do."""
    return any(layer._seed_generators and not _draws_nothing(layer) for layer in _parts(operation))  # noqa: SLF001 (no public way)


def is_batch_norm(operation: Operation) -> bool:
    """Whether it is BatchNormalization, or wraps it."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in _parts(operation))


def _parts(operation: Operation) -> list[Any]:
    """A layer and the layers inside it; a nameless function has none."""
    return operation._flatten_layers() if isinstance(operation, keras.Layer) else []  # noqa: SLF001 (no public way)


def _draws_nothing(layer: Any) -> bool:  # noqa: ANN401 (a Keras layer)
    """Cells of recurrent layers have a generator even without dropout."""
    return hasattr(layer, "recurrent_dropout") and not (layer.dropout or layer.recurrent_dropout)
