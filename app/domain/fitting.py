"""Whether and how a dataset's examples fit a source: sizes, channels, shapes, ranges.

Two examples: 160 x 120 photos for a source of `(224, 224, 3)` are resized; `(28, 28)` arrays for a source of
`(784,)` are laid out flat, because the numbers are the same. What would need a guess is refused with both shapes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.augmentation import Augmentation, Color
from app.domain.dataset import DatasetInfo
from app.domain.errors import DataError, UserError
from app.domain.model import SourceInfo
from app.domain.spec import COLOUR_RESCALES, Preprocessing, Rescale

Shape = tuple[int | None, ...]
Size = tuple[int | None, int | None]

PICTURE_RANK = 3
TEXT = "string"
"""The dtype of texts."""
COLOURS = 3
"""Channels: red, green, blue."""
_ARITHMETIC = {"TrueDivide", "Divide", "Multiply", "Subtract"}
_SCALING = {"Rescaling", "Normalization"} | _ARITHMETIC
_PREPARING = {"InputLayer", "Resizing", "CenterCrop", "Reshape", "Concatenate", "GetItem", "Add"} | _SCALING
"""Layers that a source may begin with before its first layer that computes features."""
_SCALED_RANGES: dict[Rescale, tuple[float, float]] = {"zero_to_one": (0.0, 1.0), "minus_one_to_one": (-1.0, 1.0)}


@dataclass(frozen=True)
class ShapeFit:
    """The steps from a raw example's shape to the source's, in their order."""

    input_shape: Shape
    output_shape: tuple[int, ...]
    add_channel: bool = False
    image_size: tuple[int, int] | None = None
    repeat_channels: bool = False

    @property
    def picture_shape(self) -> Shape:
        """Before it is laid out as the source takes it: of pictures `(height, width, channels)`."""
        shape = (*self.input_shape, 1) if self.add_channel else self.input_shape
        if self.image_size:
            shape = (*self.image_size, shape[-1])
        return (*shape[:-1], 3) if self.repeat_channels else shape


# === Range ===


def choose_rescale(wanted: Preprocessing, source: SourceInfo, data: DatasetInfo) -> Rescale:
    """What the job says, else what the source was registered with, else what the data suggests."""
    if data.kind in ("table", "text"):
        return "none"
    if wanted.rescale is not None:
        return wanted.rescale
    if takes_whole_numbers(source.input_dtype):
        return "none"
    if source.rescale is not None:
        return "none" if _already_scaled(source.rescale, data) else source.rescale
    if _SCALING & {row.class_name for row in source.layers[: _prepared_until(source)]}:
        return "none"
    return "zero_to_one" if data.dtype == "uint8" and data.value_range and data.value_range[1] > 1 else "none"


def takes_whole_numbers(dtype: str) -> bool:
    """Whether a source with inputs of this type takes integers."""
    return dtype.startswith(("int", "uint"))


def check_types(rescale: Rescale, source: SourceInfo, data: DatasetInfo) -> None:
    """DataError or UserError where whole numbers would become fractions, texts meet numbers, or colours are missing."""
    if (source.input_dtype == TEXT) != (data.dtype == TEXT):
        takes, holds = ("numbers", "texts") if data.dtype == TEXT else ("texts", f"numbers ({data.dtype})")
        message = (
            f"The source takes {takes} ({source.input_dtype}); the dataset holds {holds}. Sources for texts begin with "
            "TextVectorization or StringLookup."
        )
        raise DataError(message)
    if rescale in COLOUR_RESCALES:
        _check_colours(rescale, source, data)
    if not takes_whole_numbers(source.input_dtype):
        return
    if not takes_whole_numbers(data.dtype):
        message = f"The source takes whole numbers ({source.input_dtype}); the dataset's examples are {data.dtype}."
        raise DataError(message)
    if rescale != "none":
        message = (
            f"The source takes whole numbers ({source.input_dtype}), so rescale must be 'none'; received '{rescale}'."
        )
        raise UserError(message, param="preprocessing.rescale")


def _check_colours(rescale: Rescale, source: SourceInfo, data: DatasetInfo) -> None:
    expected, given = tuple(source.input_shape[1:]), tuple(data.example_shape)
    if len(expected) != PICTURE_RANK or expected[-1] != COLOURS:
        message = (
            f"rescale '{rescale}' is for sources that take pictures with {COLOURS} channels; this one takes "
            f"{_text(expected)}. Choose 'none', 'zero_to_one' or 'minus_one_to_one'."
        )
        raise UserError(message, param="preprocessing.rescale")
    if len(given) not in (PICTURE_RANK - 1, PICTURE_RANK):
        message = (
            f"The source takes pictures whose channels are scaled one by one ('{rescale}'); the dataset's examples "
            f"have the shape {_text(given)}. Store them as (height, width, {COLOURS})."
        )
        raise DataError(message)


def _already_scaled(rescale: Rescale, data: DatasetInfo) -> bool:
    """A source that wants 8-bit values in [0, 1] takes floats that are there already as they are."""
    low, high = _SCALED_RANGES.get(rescale, (math.inf, -math.inf))
    smallest, largest = data.value_range or (-math.inf, math.inf)
    return data.dtype.startswith("float") and low <= smallest and largest <= high


def _prepared_until(source: SourceInfo) -> int:
    """Index of the source's first layer that does more than prepare its input."""
    classes = [row.class_name for row in source.layers]
    return next((index for index, name in enumerate(classes) if name not in _PREPARING), len(classes))


# === Shape ===


def fit_shape(wanted: Preprocessing, source: SourceInfo, data: DatasetInfo) -> ShapeFit:
    """The steps that make raw examples fit; DataError or UserError if there are none without guessing."""
    given, expected = tuple(data.example_shape), tuple(source.input_shape[1:])
    if data.kind == "text":
        shape = _one_text(wanted, expected)
        return ShapeFit(shape, shape)
    if data.kind == "table":
        return ShapeFit(given, _same_features(wanted, source, data))
    may_be_picture = len(given) in (PICTURE_RANK - 1, PICTURE_RANK)
    if wanted.image_size and not may_be_picture:
        message = f"image_size is for pictures; the dataset's examples have the shape {_text(given)}."
        raise UserError(message, param="preprocessing.image_size")
    if data.kind == "images":
        # Always resized, to their own size if nothing else is wanted: so the exported model takes pictures of any size.
        fit = _fit_picture(wanted.image_size, given, expected, source)
        return replace(fit, input_shape=(None, None, given[-1]))
    if may_be_picture and (len(expected) == PICTURE_RANK or wanted.image_size):
        fit = _fit_picture(wanted.image_size, given, expected, source)
        return replace(fit, image_size=None) if fit.image_size == given[:2] else fit
    return ShapeFit(given, _same_numbers(given, expected))


def _fit_picture(wanted: tuple[int, int] | None, given: Shape, expected: Shape, source: SourceInfo) -> ShapeFit:
    add_channel = len(given) < PICTURE_RANK
    height, width, channels = (*given, 1) if add_channel else given
    assert channels is not None  # pictures of one dataset have the same channels
    repeat = _repeats(channels, expected, given)
    target = _target_size(wanted, (height, width), expected, source)
    shape = (*target, 3 if repeat else channels)
    return ShapeFit(
        input_shape=given,
        output_shape=_same_numbers(shape, expected) if len(expected) != PICTURE_RANK else shape,
        add_channel=add_channel,
        image_size=target,
        repeat_channels=repeat,
    )


def check_augmentation(wishes: Sequence[Augmentation], picture: Shape, data: DatasetInfo) -> None:
    """UserError with code `no_pictures` or `no_colors` where the examples cannot be changed like this.

    `picture`: what is rescaled, `ShapeFit.picture_shape`.
    """
    if not wishes:
        return
    if data.inputs:
        message = (
            f"augmentation is for examples that are one picture; the dataset has {len(data.inputs)} arrays for each, "
            f"{', '.join(each.name for each in data.inputs)}. Leave augmentation out."
        )
        raise UserError(message, code="no_pictures", param="augmentation")
    if len(picture) != PICTURE_RANK:
        message = (
            "augmentation is for pictures: examples of the shape (height, width, channels), or (height, width) for a "
            f"source that takes pictures; the dataset's have the shape {_text(data.example_shape)}. "
            "Leave augmentation out, or store grayscale pictures as (height, width, 1)."
        )
        raise UserError(message, code="no_pictures", param="augmentation")
    channels = picture[-1]
    for index, wish in enumerate(wishes):
        if isinstance(wish, Color) and wish.needs_channels and channels != 3:
            message = (
                f"Saturation and hue are for pictures with 3 channels; the dataset's examples have {channels}, "
                f"{_text(data.example_shape)}. Leave them out."
            )
            raise UserError(message, code="no_colors", param=f"augmentation.{index}")


def _repeats(channels: int, expected: Shape, given: Shape) -> bool:
    wanted = expected[-1] if len(expected) == PICTURE_RANK else None
    if wanted is None or wanted == channels:
        return False
    if channels == 1 and wanted == 3:
        return True
    advice = "Convert the pictures to grayscale first." if (channels, wanted) == (3, 1) else "The last axis must match."
    message = (
        f"The source expects pictures with {wanted} channel{'s' * (wanted != 1)}, {_text(expected)}; the dataset's "
        f"have {channels}, {_text(given)}. {advice}"
    )
    raise DataError(message)


def _target_size(wanted: tuple[int, int] | None, given: Size, expected: Shape, source: SourceInfo) -> tuple[int, int]:
    fixed: Size = expected[:2] if len(expected) == PICTURE_RANK else (None, None)  # type: ignore[assignment]  # two by rank
    if wanted and any(side is not None and side != want for side, want in zip(fixed, wanted, strict=True)):
        message = f"The source takes pictures of {_text(fixed)} only; received image_size {list(wanted)}. Leave it out."
        raise UserError(message, param="preprocessing.image_size")
    choices = (wanted or (None, None), fixed, _resizes_to(source), given)
    height, width = (next((size[axis] for size in choices if size[axis] is not None), None) for axis in (0, 1))
    if height is None or width is None:
        message = (
            "The source takes pictures of any size and the dataset's differ in size, so a size must be chosen: "
            'set "preprocessing": {"image_size": [height, width]}.'
        )
        raise UserError(message, code="image_size_needed", param="preprocessing.image_size")
    return height, width


def _resizes_to(source: SourceInfo) -> Size:
    """The size that the source itself resizes to first, as results of earlier jobs do."""
    for row in source.layers[: _prepared_until(source)]:
        if row.class_name == "Resizing" and row.output_shape and len(row.output_shape) == PICTURE_RANK + 1:
            _, height, width, _ = row.output_shape
            return height, width  # type: ignore[return-value]  # a layer with one output has one flat shape
    return None, None


def _same_numbers(given: Shape, expected: Shape) -> tuple[int, ...]:
    """The source's shape, if a dataset's example has exactly its numbers."""
    if len(given) == len(expected) and all(
        size is not None and want in (None, size) for size, want in zip(given, expected, strict=True)
    ):
        return _known(given)
    if None in given:
        message = (
            f"The dataset's pictures differ in size and the source expects the shape {_text(expected)}: "
            'set "preprocessing": {"image_size": [height, width]}.'
        )
        raise UserError(message, code="image_size_needed", param="preprocessing.image_size")
    if None in expected or math.prod(_known(given)) != math.prod(_known(expected)):
        message = (
            f"The source expects examples of the shape {_text(expected)}; the dataset's have {_text(given)}, "
            f"{math.prod(_known(given)):,} numbers. Choose a source or a dataset that fits."
        )
        raise DataError(message)
    return _known(expected)


def _one_text(wanted: Preprocessing, expected: Shape) -> tuple[int, ...]:
    """How the source takes a text: `()`, or `(1,)`."""
    _refuse_for_pictures(wanted)
    if expected not in ((), (1,)):
        message = (
            f"The source expects {_text(expected)} texts for each example; the dataset has one. Choose another source."
        )
        raise DataError(message)
    return () if expected == () else (1,)


def _refuse_for_pictures(wanted: Preprocessing) -> None:
    if wanted.image_size or wanted.rescale not in (None, "none"):
        option = "image_size" if wanted.image_size else "rescale"
        message = f"{option} is for pictures; tables are standardized by the dataset, texts not at all. Leave it out."
        raise UserError(message, param=f"preprocessing.{option}")


def _same_features(wanted: Preprocessing, source: SourceInfo, data: DatasetInfo) -> tuple[int, ...]:
    """The source's shape, if it takes as many numbers as the table has features, and the same ones if it names them."""
    _refuse_for_pictures(wanted)
    features, expected = data.features or [], tuple(source.input_shape[1:])
    free = expected == (None,)
    if not free and (None in expected or math.prod(_known(expected)) != len(features)):
        message = (
            f"The source expects examples of the shape {_text(expected)}; the table's rows become {len(features):,} "
            f"numbers: {_listed(features)}. Choose the columns with the dataset's columns or drop, or another source."
        )
        raise DataError(message)
    if source.features is not None and source.features != features:
        place = next(i for i, pair in enumerate(zip(source.features, features, strict=True)) if pair[0] != pair[1])
        message = (
            f"The source has learned from other features: its number {place + 1} means '{source.features[place]}', the "
            f"table's '{features[place]}'. Name and order the columns as the source knows them: "
            f"{_listed(source.features)}."
        )
        raise DataError(message)
    return (len(features),) if free else _known(expected)


def _listed(names: Sequence[str], most: int = 30) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _known(shape: Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size is not None)


def _text(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
