"""Augmentation: random changes of training pictures, on their way from resizing to rescaling.

    raw example ─ add channel ─ resize ─ repeat channels ─┬─ augmentation ─┬─ rescale ─ reshape ─▶ source
                  numpy, in the pipeline's threads        └─── one traced function, on the device ───┘

What happens to a picture is a pure function of the job's seed, the epoch, the step and its place in the batch: no
layer keeps a random state, so a run that goes on after an interruption sees the very same pictures. Keras' layers and
operations do the work, with explicit seeds: a layer is asked for a transformation with a seed, and then to apply it.
(`RandomColorJitter` cannot be asked so, its inner layers draw from generators of their own.)

Values stay in the range that they can have: 0 to 255 for 8-bit pictures, else from the smallest to the largest value
of the dataset. Saturation and hue are changed in [0, 1], for Keras would clip saturation wrongly in any other range.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from app.domain.augmentation import Augmentation, Color, Mixup, mixes
from app.domain.dataset import DatasetInfo
from app.domain.fitting import check_augmentation, takes_whole_numbers
from worker.engine.data import Preprocess, Preprocesses
from worker.engine.geometry import Draw, Geometric, moved
from worker.engine.objective import Objective, Tensor
from worker.engine.seeds import derive

EIGHT_BIT = (0.0, 255.0)

Batch = tuple[Tensor, Tensor]
Change = Callable[[Tensor, Tensor, Draw], Batch]
"""Of pictures `(batch, height, width, channels)` and labels."""


def augmenter(
    wishes: Sequence[Augmentation], preprocess: Preprocess | Preprocesses, data: DatasetInfo, objective: Objective
) -> "Augmenter | None":
    """What carries out a job's wishes; `None` if it has none. Raises UserError for examples that are no pictures."""
    if isinstance(preprocess, Preprocesses):
        check_augmentation(wishes, (), data)
        return None
    check_augmentation(wishes, preprocess.picture_shape, data)
    return Augmenter(wishes, preprocess, data, objective) if wishes else None


class Augmenter:
    """Makes of resized pictures what the source takes, with random changes on the way."""

    def __init__(
        self, wishes: Sequence[Augmentation], preprocess: Preprocess, data: DatasetInfo, objective: Objective
    ) -> None:
        self.resize, self._rescale = _halves(preprocess)
        self.objective = replace(objective, mixed=mixes(wishes))
        """What the training step is to be measured by; `mixup` makes of classes parts of classes."""
        self._given = objective
        self._classes = len(data.classes or ())
        self._changes = list(_all_changes(wishes, pixel_range(data)))
        self._function: Callable[[Tensor, Tensor, Tensor], Batch] | None = None

    def __call__(self, x: Tensor, y: Tensor, *, order: tuple[int, int], step: int) -> Batch:
        """A training batch, from what `resize` gave and its labels.

        `order`: seed of the job, and epoch since its start; `step`: of this epoch, from 1.
        """
        if self._function is None:
            self._function = self._traced()
        seed, epoch = order
        return self._function(x, y, tf.constant(derive(seed, "augmentation", str(epoch), str(step)), "uint32"))

    def _traced(self) -> Callable[..., Batch]:
        x = tf.TensorSpec((None, *self.resize.output_shape), "float32")
        y = tf.TensorSpec((None,) * (1 if self._given.one_label else 2), self._given.label_dtype)
        signature = (x, y, tf.TensorSpec((), "uint32"))
        return tf.function(self._change, input_signature=signature, autograph=False).get_concrete_function()

    def _change(self, x: Tensor, y: Tensor, seed: Tensor) -> Batch:
        draw = _StepSeeds(seed)
        if self.objective.mixed and self._given.task == "single_label":
            y = ops.one_hot(y, self._classes, dtype="float32")
        for change in self._changes:
            x, y = change(x, ops.cast(y, self.objective.label_dtype), draw)
        x = ops.round(x) if takes_whole_numbers(self._rescale.source_dtype) else x
        for layer in self._rescale.layers():
            x = layer(x)
        return ops.cast(x, "float32"), y


def pixel_range(data: DatasetInfo) -> tuple[float, float]:
    """The smallest and the largest value that a picture of the dataset can have."""
    low, high = data.value_range
    return EIGHT_BIT if data.dtype == "uint8" and high > 1 else (low, high)


def _halves(preprocess: Preprocess) -> tuple[Preprocess, Preprocess]:
    """Up to resizing, with the values as they are; and what remains."""
    picture = tuple(size for size in preprocess.picture_shape if size is not None)  # after resizing all are known
    first = replace(preprocess, output_shape=picture, rescale="none", source_dtype="float32")
    rest = Preprocess(
        input_shape=picture,
        input_dtype="float32",
        output_shape=preprocess.output_shape,
        rescale=preprocess.rescale,
        source_dtype=preprocess.source_dtype,
    )
    return first, rest


class _StepSeeds(keras.random.SeedGenerator):
    """Seeds for the draws of one step, counted; Keras' own keeps them in a variable that outlives the step."""

    def __init__(self, seed: Tensor) -> None:
        # Without the base's: that makes the variable.
        self._seed = seed
        self._drawn = 0

    def next(self, ordered: bool = True) -> Tensor:  # noqa: ARG002, FBT001, FBT002 (Keras' signature)
        """`(2,)` uint32: the step's seed and the number of the draw."""
        self._drawn += 1
        return tf.stack([self._seed, tf.constant(self._drawn, "uint32")])


# === Changes ===


def _all_changes(wishes: Sequence[Augmentation], pixels: tuple[float, float]) -> Iterator[Change]:
    for moves, group in itertools.groupby(wishes, lambda wish: isinstance(wish, Geometric)):
        if moves:
            yield _moved(list(group))
            continue
        for wish in group:
            if isinstance(wish, Color):
                yield from _color(wish, pixels)
            elif isinstance(wish, Mixup):
                yield _mixed(wish)


def _moved(wishes: Sequence[Any]) -> Change:
    return lambda x, y, draw: (moved(x, wishes, draw), y)


def _color(wish: Color, pixels: tuple[float, float]) -> Iterator[Change]:
    if wish.brightness or wish.contrast:
        yield lambda x, y, draw: (_toned(x, wish, pixels, draw), y)
    if wish.saturation:
        # 0.5 is Keras' word for no change: it multiplies by f / (1 - f).
        factor = (0.5 - wish.saturation / 2, 0.5 + wish.saturation / 2)
        yield _in_unit_range(layers.RandomSaturation(factor, value_range=(0, 1), dtype="float32"), pixels)
    if wish.hue:
        yield _in_unit_range(layers.RandomHue(wish.hue, value_range=(0, 1), dtype="float32"), pixels)


def _toned(x: Tensor, wish: Color, pixels: tuple[float, float], draw: Draw) -> Tensor:
    """What Keras' `RandomBrightness` and `RandomContrast` do, in one pass instead of five."""
    (low, high), (batch, height, width, channels) = pixels, ops.shape(x)
    gain = keras.random.uniform((batch, 1), 1 - wish.contrast, 1 + wish.contrast, seed=draw)
    shift = keras.random.uniform((batch, 1), -wish.brightness, wish.brightness, seed=draw) * (high - low)
    offset = ops.mean(ops.mean(x, axis=1), axis=1) * (1 - gain) + shift
    # As rows of width times channels: TensorFlow is four times as fast as where the last axis is of three.
    rows = ops.reshape(x, (-1, height, width * channels)) * gain[..., None] + ops.tile(offset, (1, width))[:, None]
    return ops.reshape(ops.clip(rows, low, high), (-1, height, width, channels))


def _in_unit_range(layer: Any, pixels: tuple[float, float]) -> Change:  # noqa: ANN401 (Keras has no types)
    low, width = pixels[0], (pixels[1] - pixels[0]) or 1.0

    def change(x: Tensor, y: Tensor, draw: Draw) -> Batch:
        drawn = layer.get_random_transformation(x, training=True, seed=draw)
        return layer.transform_images((x - low) / width, drawn, training=True) * width + low, y

    return change


def _mixed(wish: Mixup) -> Change:
    layer = layers.MixUp(wish.alpha, dtype="float32")

    def change(x: Tensor, y: Tensor, draw: Draw) -> Batch:
        drawn = layer.get_random_transformation(x, training=True, seed=draw)
        rows = y if len(y.shape) > 1 else ops.expand_dims(y, -1)
        rows = layer.transform_labels(rows, drawn, training=True)
        return layer.transform_images(x, drawn, training=True), rows if len(y.shape) > 1 else ops.squeeze(rows, -1)

    return change
