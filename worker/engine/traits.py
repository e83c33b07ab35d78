"""What the layer table says of an operation besides its shape: what training may change in it, and how."""

import math
from typing import Any

import keras

from worker.engine.graph import Operation

_RATES = ("rate", "dropout", "recurrent_dropout")
"""Attributes of layers that draw only if one of them is above 0; Keras' RNNs hold a seed generator in any case."""


def trainable_parameters(operation: Operation) -> int:
    """Numbers in the weights that training may change, whatever the file says of `trainable`."""
    # A layer's own list holds its variables as they were made; `trainable_weights` is empty once it is frozen.
    variables = [variable for layer in _parts(operation) for variable in layer._trainable_variables]  # noqa: SLF001 (no public way)
    return sum(math.prod(variable.shape) for variable in variables)


def is_stochastic(operation: Operation) -> bool:
    """Whether it draws at random while training."""
    return any(draws(layer) for layer in _parts(operation))


def draws(layer: keras.Layer) -> bool:
    """Whether the layer itself, without those inside it, draws at random: it has a seed generator and uses it."""
    if not layer._seed_generators:  # noqa: SLF001 (no public way)
        return False
    rates = [getattr(layer, name) for name in _RATES if hasattr(layer, name)]
    return not rates or any(rates)


def is_batch_norm(operation: Operation) -> bool:
    """Whether it is BatchNormalization, or wraps it."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in _parts(operation))


def _parts(operation: Operation) -> list[Any]:
    """A layer and the layers inside it; a nameless function has none."""
    return operation._flatten_layers() if isinstance(operation, keras.Layer) else []  # noqa: SLF001 (no public way)
