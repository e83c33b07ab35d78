"""What a head's layers and its output layer are in Keras."""

from collections.abc import Sequence
from typing import Any

import keras

from app.domain.errors import UserError
from app.domain.head import (
    HeadActivation,
    HeadBatchNormalization,
    HeadDense,
    HeadDropout,
    HeadFlatten,
    HeadLayer,
    HeadLayerNormalization,
    HeadPooling,
)
from app.domain.spec import Task
from worker.engine import graph
from worker.engine.seeds import derive

_AVERAGE = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}
_MOVING = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Dropout)
_MAX = {3: keras.layers.GlobalMaxPooling1D, 4: keras.layers.GlobalMaxPooling2D, 5: keras.layers.GlobalMaxPooling3D}

OUTPUT_ACTIVATION: dict[Task, str] = {
    "binary": "sigmoid",
    "single_label": "softmax",
    "multi_label": "sigmoid",
    "regression": "linear",
}


def layer(wish: HeadLayer, *, rank: int, name: str, seed: int) -> keras.Layer:
    """The Keras layer for an input of this rank (batch axis included); pooling takes ranks 3 to 5."""
    match wish:
        case HeadDense():
            return _dense(wish.units, wish.activation, name=name, seed=seed)
        case HeadPooling():
            return (_AVERAGE if wish.type == "global_average_pooling" else _MAX)[rank](name=name)
        case _:
            return _without_shape(wish, name=name, seed=seed)


def _without_shape(
    wish: HeadDropout | HeadBatchNormalization | HeadLayerNormalization | HeadActivation | HeadFlatten,
    *,
    name: str,
    seed: int,
) -> keras.Layer:
    match wish:
        case HeadDropout():
            return keras.layers.Dropout(wish.rate, seed=derive(seed, name), name=name)
        case HeadBatchNormalization():
            return keras.layers.BatchNormalization(momentum=wish.momentum, name=name)
        case HeadLayerNormalization():
            return keras.layers.LayerNormalization(name=name)
        case HeadActivation():
            return keras.layers.Activation(wish.activation, name=name)
        case HeadFlatten():
            return keras.layers.Flatten(name=name)


def output_layer(task: Task, outputs: int, *, name: str, seed: int) -> keras.Layer:
    """The last layer, in float32 whatever the source's dtype policy: probabilities and losses need the digits."""
    least = 2 if task in ("single_label", "multi_label") else 1
    if outputs < least or (task == "binary" and outputs != 1):
        message = f"Task '{task}' cannot have {outputs} outputs; binary has 1, single_label and multi_label at least 2."
        raise UserError(message, code="head_does_not_fit", param="head")
    return _dense(outputs, OUTPUT_ACTIVATION[task], name=name, seed=seed, dtype="float32")


def ends_in(layers: Sequence[graph.Operation]) -> str:
    """The name of the activation that a chain of layers ends in; what only moves or drops numbers is looked through."""
    last = next((layer for layer in reversed(layers) if not isinstance(layer, _MOVING)), layers[-1])
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(last, "activation", None), "__name__", type(last).__name__)


def _dense(units: int, activation: str, *, name: str, seed: int, **options: Any) -> keras.Layer:  # noqa: ANN401 (Keras)
    kernel = keras.initializers.GlorotUniform(seed=derive(seed, name, "kernel"))
    return keras.layers.Dense(units, activation=activation, kernel_initializer=kernel, name=name, **options)
