"""Convolutions whose gradients a CPU gets wrong, computed another way.

The gradient of the weights of a convolution with a kernel of one position, strides and few input channels writes past
a buffer in oneDNN, which TensorFlow computes with on CPUs (uxlfoundation/oneDNN, issue 6035; seen with TensorFlow 2.21
on AVX-512): the process crashes, or goes on with wrong gradients. Shortcuts of residual networks are such.

With a kernel of one position, all but every n-th position of the input is skipped. Taking these first and convolving
without strides gives the same numbers, and another gradient.
"""

import math
from typing import Any

import keras

from worker.engine.objective import Tensor

FEW_CHANNELS = 16
"""Channels of a block in oneDNN with AVX-512; fewer are too few."""
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def make_sound(model: keras.Model) -> list[str]:
    """Have a built model's layers compute that way where it is needed; their names.

    Neither their configuration nor their weights change, and what is saved of them knows nothing of it.
    """
    affected = [layer for layer in model._flatten_layers() if _is_affected(layer)]  # noqa: SLF001 (no public way)
    for layer in affected:
        layer.call = _calling(layer)
    return [layer.name for layer in affected]


def _is_affected(layer: keras.Layer) -> bool:
    return (
        type(layer) in _CONVOLUTIONS
        and math.prod(layer.kernel_size) == 1
        and math.prod(layer.strides) > 1
        and layer.kernel.shape[-2] < FEW_CHANNELS
    )


def _calling(layer: Any) -> Any:  # noqa: ANN401 (a convolution of Keras, its call)
    """What the layer's own `call` computes."""
    every = tuple(slice(None, None, stride) for stride in layer.strides)
    channels_last = layer.data_format == "channels_last"
    taken = (slice(None), *every, slice(None)) if channels_last else (slice(None), slice(None), *every)
    bias_shape = (1, *(1,) * layer.rank, layer.filters) if channels_last else (1, layer.filters, *(1,) * layer.rank)

    def call(inputs: Tensor) -> Tensor:
        outputs = keras.ops.conv(inputs[taken], layer.kernel, 1, padding="valid", data_format=layer.data_format)
        if layer.use_bias:
            outputs = keras.ops.add(outputs, keras.ops.reshape(layer.bias, bias_shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call
