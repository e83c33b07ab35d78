"""A model's inputs, whatever their number, and examples in their form.

One input or a dictionary of named ones, numbers or strings: everything here works on the flat list of inputs, in
Keras' order (dictionaries by sorted key).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.domain.errors import UserError
from app.domain.exports import ExportedInput

OUTPUT = "predictions"
"""What every exported file calls its output."""
STRING = "string"

Array = np.ndarray[Any, Any]
Batch = list[Array]
"""One array for each input, each with the batch axis first."""


def inputs_of(model: keras.Model) -> list[ExportedInput]:
    """The inputs as the model declares them."""
    return [
        ExportedInput(name=tensor.name, shape=list(tensor.shape), dtype=keras.backend.standardize_dtype(tensor.dtype))
        for tensor in keras.tree.flatten(model.input)
    ]


def of_one_example(inputs: Sequence[ExportedInput], *, image_size: tuple[int, int] | None) -> list[ExportedInput]:
    """The same with a batch of one and no open axis: pictures get `image_size`.

    Raises `UserError` if another axis is open.
    """
    return [each.model_copy(update={"shape": [1, *_fixed(each, image_size)]}) for each in inputs]


def _fixed(taken: ExportedInput, image_size: tuple[int, int] | None) -> list[int]:
    shape = taken.shape[1:]
    if image_size and len(shape) in {2, 3} and shape[0] is None and shape[1] is None:
        shape = [*image_size, *shape[2:]]
    known = [size for size in shape if size is not None]
    if len(known) < len(shape):
        message = (
            f"This format needs inputs of a fixed shape, and the model's input '{taken.name}' is open: "
            f"{taken.shape}. Ask for 'saved_model' or 'onnx' instead."
        )
        raise UserError(message, code="export_not_possible")
    return known


def signature(model: keras.Model, inputs: Sequence[ExportedInput]) -> Any:  # noqa: ANN401 (a tensor's, or a dictionary's)
    """TensorFlow's description of what the model takes, in the structure that it takes."""
    specs = [tf.TensorSpec(each.shape, each.dtype, name=each.name) for each in inputs]
    return keras.tree.pack_sequence_as(model.input, specs)


def predicting(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """The model as a function of its inputs, never in training mode; its output is called `predictions`."""
    return lambda examples: {OUTPUT: model(examples, training=False)}


def batch_of_one(inputs: Sequence[ExportedInput], example: Array | Mapping[str, Any]) -> Batch:
    """A raw example, an array or named values, as the arrays that the inputs take."""
    values = [example[each.name] for each in inputs] if isinstance(example, Mapping) else [example]
    return [_shaped(np.asarray(value)[None], each) for value, each in zip(values, inputs, strict=True)]


def _shaped(value: Array, taken: ExportedInput) -> Array:
    """Single values get the axis that Keras gives them."""
    missing = len(taken.shape) - value.ndim
    value = value.reshape(*value.shape, *[1] * missing) if missing > 0 else value
    return value if taken.dtype == STRING else value.astype(taken.dtype, copy=False)


def fitted(inputs: Sequence[ExportedInput], batch: Batch) -> Batch:
    """The batch with pictures in the inputs' sizes where those are fixed: bilinear as in training, integers rounded."""
    return [_resized(value, each) for value, each in zip(batch, inputs, strict=True)]


def _resized(picture: Array, taken: ExportedInput) -> Array:
    if all(want in (None, size) for want, size in zip(taken.shape, picture.shape, strict=True)):
        return picture
    rank_3 = picture.ndim == 3
    values = np.asarray(tf.image.resize(picture[..., None] if rank_3 else picture, taken.shape[1:3]))
    values = values[..., 0] if rank_3 else values
    return (np.rint(values) if np.issubdtype(picture.dtype, np.integer) else values).astype(picture.dtype)


def predictions(model: keras.Model, batches: Sequence[Batch]) -> Array:
    """What the Keras model says to batches of one: `(n, outputs)`."""
    packed = (keras.tree.pack_sequence_as(model.input, [tf.constant(value) for value in batch]) for batch in batches)
    return np.concatenate([keras.ops.convert_to_numpy(model(examples, training=False)) for examples in packed])
