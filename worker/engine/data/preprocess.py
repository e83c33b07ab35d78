"""From raw examples to what the source takes: one plan, for the training pipeline and for the exported model.

    raw example ─ add channel ─ resize ─ repeat channels ─ turn channels ─ rescale ─ reshape ─▶ source

`Preprocess.apply` works on numpy batches; `Preprocess.layers` are plain Keras layers that do the same arithmetic in
the same order, so that the exported model takes raw examples. On a CPU both give the same bits; a GPU's own
bilinear kernel may differ in the last ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from app.domain.dataset import DatasetInfo
from app.domain.fitting import (
    COLOURS,
    Shape,
    ShapeFit,
    check_types,
    choose_rescale,
    fit_shape,
    takes_whole_numbers,
)
from app.domain.model import SourceInfo
from app.domain.spec import COLOUR_RESCALES, Preprocessing, Rescale
from worker.engine.data.found import Array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]."""
IMAGENET_BGR_MEAN = (103.939, 116.779, 123.68)
"""Of blue, green and red in [0, 255]."""

Number = float | tuple[float, ...]
"""The same for all channels, or one for each."""
SCALES: dict[Rescale, tuple[Number, Number]] = {
    "none": (1.0, 0.0),
    "zero_to_one": (1 / 255, 0.0),
    "minus_one_to_one": (1 / 127.5, -1.0),
    "imagenet_mean_std": (
        tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATION),
        tuple(-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)),
    ),
    "imagenet_bgr_mean": (1.0, tuple(-mean for mean in IMAGENET_BGR_MEAN)),
}
"""Factor and offset, as in `keras.applications.imagenet_utils.preprocess_input`."""
_HALF = 0.5


@dataclass(frozen=True)
class Preprocess:
    """What happens to every example, training or not. Shapes are without the batch axis."""

    input_shape: Shape
    """Of raw examples, as the exported model takes them: for images `(None, None, channels)`, any size."""
    input_dtype: str
    """Of raw examples: `uint8`, `float32`, `int64`, …"""
    output_shape: tuple[int, ...]
    """Of what the source gets."""
    rescale: Rescale = "none"
    add_channel: bool = False
    """Whether pictures come as `(height, width)`."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize to, bilinear; `None` for arrays that are no pictures or have the right size."""
    repeat_channels: bool = False
    """Grayscale pictures for a source that takes three channels."""
    source_dtype: str = "float32"
    """Of the source's input. If that is an integer type, pictures that were resized are rounded."""

    @classmethod
    def resolve(cls, wanted: Preprocessing, source: SourceInfo, data: DatasetInfo) -> Self:
        """Plan how the dataset's examples become what the source takes.

        `rescale`: the job's, else the source's, else none if the source begins by scaling, else `zero_to_one` for 8-bit
        values. Size: the job's, else the source's, else the dataset's own. Raises DataError or UserError where the two
        do not fit, naming both shapes.
        """
        rescale = choose_rescale(wanted, source, data)
        check_types(rescale, source, data)
        fit = fit_shape(wanted, source, data)
        return cls(
            input_shape=fit.input_shape,
            input_dtype=data.dtype,
            output_shape=fit.output_shape,
            rescale=rescale,
            add_channel=fit.add_channel,
            image_size=fit.image_size,
            repeat_channels=fit.repeat_channels,
            source_dtype=source.input_dtype,
        )

    def apply(self, raw: Array | Sequence[Array]) -> Array:
        """`(batch, *output_shape)` from raw examples: `(batch, …)`, or a list of pictures of any size.

        float32; for a source of whole numbers of its own type; texts stay `bytes`.
        """
        if self._texts:
            return np.asarray(raw).reshape(len(raw), *self.output_shape)
        raw = raw[..., None] if self.add_channel and isinstance(raw, np.ndarray) else raw
        if self.image_size is None or (isinstance(raw, np.ndarray) and raw.shape[1:3] == self.image_size):
            values = self._rescaled(np.asarray(raw))
        else:
            values = self._resized(raw, self.image_size)
        if self.repeat_channels and not self._colours:
            values = np.repeat(values, 3, axis=-1)
        values = values.reshape(len(values), *self.output_shape)
        return values.astype(self.source_dtype) if self._whole_numbers else values

    def _resized(self, pictures: Array | Sequence[Array], size: tuple[int, int]) -> Array:
        """Each picture resized and rescaled by itself, while it is in the processor's cache."""
        channels = COLOURS if self._colours else pictures[0].shape[-1]
        values = np.empty((len(pictures), *size, channels), np.float32)
        for picture, place in zip(pictures, values, strict=True):
            self._rescaled(_resize(picture, size), out=place)
        return values

    def _rescaled(self, raw: Array, out: Array | None = None) -> Array:
        """In float32, one operation after the other, as `keras.layers.Rescaling` does; whole numbers as they are.

        One channel times three factors, or plus three offsets, are three channels: gray pictures repeat by that.
        """
        if self._whole_numbers and self.image_size is None:
            return raw
        if self._turns_channels:
            raw = np.broadcast_to(raw, (*raw.shape[:-1], COLOURS))[..., ::-1]
        factor, offset = (np.asarray(number, np.float32) for number in self._scale)
        values = np.multiply(raw, factor, out=out, dtype=np.float32, casting="unsafe")
        if np.any(offset):
            np.add(values, offset, out=values)
        return np.floor(values, out=values) if self._whole_numbers else values

    @property
    def numbers(self) -> int:
        """Of one example, as the source gets it."""
        return math.prod(self.output_shape)

    @property
    def resizes(self) -> bool:
        """Whether examples are pictures that are resized."""
        return self.image_size is not None

    def layers(self) -> list[Any]:
        """Fresh Keras layers, to be applied one after another to raw examples; none if nothing is to be done."""
        from keras import layers

        if self._texts:
            return []
        steps: list[Any] = []
        if self._cast_first:
            steps.append(layers.Rescaling(1.0, name="to_float", dtype="float32"))
        if self.add_channel:
            steps.append(layers.Reshape((*self.input_shape, 1), name="add_channel"))
        if self.image_size:
            steps.append(layers.Resizing(*self.image_size, name="resize", dtype="float32"))
        if self.repeat_channels:
            steps.append(_gray_to_rgb())
        if self._turns_channels:
            steps.append(_rgb_to_bgr())
        if self._scale != SCALES["none"]:
            steps.append(layers.Rescaling(*self._scale, name="rescale", dtype="float32"))
        if self._whole_numbers and (self.image_size or self.input_dtype != self.source_dtype):
            steps.append(layers.Rescaling(1, 0, name="to_whole_numbers", dtype=self.source_dtype))
        if self.picture_shape != self.output_shape:
            steps.append(layers.Reshape(self.output_shape, name="reshape"))
        return steps

    @property
    def _texts(self) -> bool:
        return self.source_dtype == "string"

    @property
    def _whole_numbers(self) -> bool:
        return takes_whole_numbers(self.source_dtype)

    @property
    def _colours(self) -> bool:
        """Whether each channel is scaled by itself, after which there are always three."""
        return self.rescale in COLOUR_RESCALES

    @property
    def _turns_channels(self) -> bool:
        return self.rescale == "imagenet_bgr_mean"

    @property
    def _scale(self) -> tuple[Number, Number]:
        """Factor and offset; for a source of whole numbers the offset makes of dropping fractions rounding."""
        if self._whole_numbers:
            return 1.0, _HALF if self.image_size else 0.0
        return SCALES[self.rescale]

    @property
    def _cast_first(self) -> bool:
        """Keras' Resizing rounds 8-bit pictures in eager mode but not in graphs, so they become floats before it."""
        if self.input_dtype.startswith("float"):
            return False
        return self.image_size is not None or (self._scale == SCALES["none"] and not self._whole_numbers)

    @property
    def picture_shape(self) -> Shape:
        """What is rescaled, before it is laid out as the source takes it: of pictures `(height, width, channels)`."""
        fit = ShapeFit(self.input_shape, self.output_shape, self.add_channel, self.image_size, self.repeat_channels)
        return fit.picture_shape


def _resize(picture: Array, size: tuple[int, int]) -> Array:
    """The operation under `keras.layers.Resizing`, without the cost of calling a layer for each picture."""
    if picture.shape[:2] == size:
        return picture
    import tensorflow as tf

    values = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
    with tf.device("CPU:0"):
        return np.asarray(tf.raw_ops.ResizeBilinear(images=values[None], size=size, half_pixel_centers=True))[0]


def _gray_to_rgb() -> Any:  # noqa: ANN401 (Keras has no types)
    import keras

    gray = keras.Input((None, None, 1))
    return keras.Model(gray, keras.layers.Concatenate(name="repeat")([gray, gray, gray]), name="gray_to_rgb")


def _rgb_to_bgr() -> Any:  # noqa: ANN401 (Keras has no types)
    """Slices put together in the other order: a slice with a negative step is not known in every export format."""
    import keras

    rgb = keras.Input((None, None, COLOURS))
    turned = [rgb[..., channel : channel + 1] for channel in reversed(range(COLOURS))]
    return keras.Model(rgb, keras.layers.Concatenate(name="turn_round")(turned), name="rgb_to_bgr")
