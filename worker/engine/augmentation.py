"""Augmentation: random changes of training pictures, on their way from resizing to rescaling.

    raw example ─ add channel ─ resize ─ repeat channels ─┬─ augmentation ─┬─ rescale ─ reshape ─▶ source
                  numpy, in the pipeline's threads        └─── one traced function, on the device ───┘

What happens to a picture is a pure function of the job's seed, the epoch, the step and its place in the batch: no
layer keeps a random state, so a run that goes on after an interruption sees the very same pictures. The layers are
Keras' own; they are asked for a transformation with an explicit seed, and then to apply it. `RandomColorJitter` is
not among them, because its inner layers draw from generators of their own.

Places that a turned or shifted picture leaves empty are filled with its mirror image. Colours are changed in [0, 1],
where 0 and 1 are the ends of the range that the values can have: 0 and 255 for 8-bit pictures, else the smallest and
the largest value of the dataset. What Keras' saturation clips would be wrong in any other range.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from app.domain.augmentation import Augmentation, Color, Crop, Flip, Mixup, Rotation, Translation, Zoom, mixes
from app.domain.dataset import DatasetInfo
from app.domain.fitting import check_augmentation, takes_whole_numbers
from worker.engine.data import Preprocess
from worker.engine.objective import Objective, Tensor
from worker.engine.seeds import derive

DEGREES = 360
FILL = "reflect"
EIGHT_BIT = (0.0, 255.0)

Draw = Any
"""`keras.random.SeedGenerator`: gives another seed for each draw."""
Batch = tuple[Tensor, Tensor]
Change = Callable[[Tensor, Tensor, Draw], Batch]
"""Of pictures `(batch, height, width, channels)` and labels."""


def augmenter(
    wishes: Sequence[Augmentation], preprocess: Preprocess, data: DatasetInfo, objective: Objective
) -> "Augmenter | None":
    """What carries out a job's wishes; `None` if it has none. Raises UserError for examples that are no pictures."""
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
        self._changes = [change for wish in wishes for change in _changes(wish, pixel_range(data))]
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
        y = tf.TensorSpec((None,) * (1 + self._given.label_rank), self._given.label_dtype)
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


def _changes(wish: Augmentation, pixels: tuple[float, float]) -> Iterator[Change]:
    match wish:
        case Flip(mode="both"):
            yield from (_layer(layers.RandomFlip(mode, dtype="float32")) for mode in ("horizontal", "vertical"))
        case Flip():
            yield _layer(layers.RandomFlip(wish.mode, dtype="float32"))
        case Crop():
            yield lambda x, y, draw: (_cropped(x, wish.scale, draw), y)
        case Zoom():
            yield _layer(layers.RandomZoom(wish.factor, fill_mode=FILL, dtype="float32"))
        case Translation():
            yield _layer(layers.RandomTranslation(wish.factor, wish.factor, fill_mode=FILL, dtype="float32"))
        case Rotation():
            yield _layer(layers.RandomRotation(wish.degrees / DEGREES, fill_mode=FILL, dtype="float32"))
        case Color():
            yield from _in_unit_range([_layer(layer) for layer in _colors(wish)], pixels)
        case Mixup():
            yield _mixed(layers.MixUp(wish.alpha, dtype="float32"))


def _layer(layer: Any) -> Change:  # noqa: ANN401 (Keras has no types)
    def change(x: Tensor, y: Tensor, draw: Draw) -> Batch:
        drawn = layer.get_random_transformation(x, training=True, seed=draw)
        return layer.transform_images(x, drawn, training=True), y

    return change


def _cropped(x: Tensor, scale: float, draw: Draw) -> Tensor:
    """Keras' `RandomCrop` takes the same place for all pictures of a batch; here each has its own place and size."""
    batch, height, width, _ = ops.shape(x)
    part = keras.random.uniform((batch,), scale, 1.0, seed=draw)
    down, right = (keras.random.uniform((batch,), seed=draw) * (1 - part) for _ in range(2))
    zero, middle = ops.zeros_like(part), 0.5 * part - 0.5  # from the corner of a pixel to its middle and back
    rows = [part, zero, right * width + middle, zero, part, down * height + middle, zero, zero]
    return ops.image.affine_transform(x, ops.stack(rows, axis=-1), interpolation="bilinear", fill_mode="nearest")


def _colors(wish: Color) -> Iterator[Any]:
    unit: dict[str, Any] = {"value_range": (0, 1), "dtype": "float32"}
    if wish.brightness:
        yield layers.RandomBrightness(wish.brightness, **unit)
    if wish.contrast:
        yield layers.RandomContrast(wish.contrast, **unit)
    if wish.saturation:
        # 0.5 is Keras' word for no change: it multiplies by f / (1 - f).
        yield layers.RandomSaturation((0.5 - wish.saturation / 2, 0.5 + wish.saturation / 2), **unit)
    if wish.hue:
        yield layers.RandomHue(wish.hue, **unit)


def _in_unit_range(changes: Sequence[Change], pixels: tuple[float, float]) -> Iterator[Change]:
    low, high = pixels
    width = (high - low) or 1.0
    yield lambda x, y, _: ((x - low) / width, y)
    yield from changes
    yield lambda x, y, _: (x * width + low, y)


def _mixed(layer: Any) -> Change:  # noqa: ANN401 (Keras has no types)
    def change(x: Tensor, y: Tensor, draw: Draw) -> Batch:
        drawn = layer.get_random_transformation(x, training=True, seed=draw)
        rows = y if len(y.shape) > 1 else ops.expand_dims(y, -1)
        rows = layer.transform_labels(rows, drawn, training=True)
        return layer.transform_images(x, drawn, training=True), rows if len(y.shape) > 1 else ops.squeeze(rows, -1)

    return change
