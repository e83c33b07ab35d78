"""A few examples of each class for people to look at, from the train split alone: nobody peeks at the test split."""

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from app.domain.dataset import PreviewExample
from worker.engine.data.found import Array
from worker.engine.data.stored import Raw, Split, StoredDataset

MAX_EXAMPLES = 30
MAX_PER_CLASS = 3
MAX_SIDE = 128
MAX_VALUES = 32
MAX_CHARACTERS = 500
MIN_SIDE = 8
"""A table of fewer rows or columns is no picture."""


def preview(dataset: StoredDataset) -> list[PreviewExample]:
    """At most 3 examples of each class and 30 in all; the first ones for regression and for several labels."""
    split = dataset.split("train")
    classes = dataset.info.classes
    one_class = classes is not None and dataset.info.task != "multi_label"
    positions = _spread(split.labels, len(classes or ())) if one_class else range(min(len(split), MAX_EXAMPLES))
    return [_show(split, position, classes, dataset.info.value_range) for position in positions]


def _spread(labels: Array, classes: int) -> list[int]:
    """First one of each class, then a second, then a third, while there is room; sorted by class."""
    per_class = [np.flatnonzero(labels == index)[:MAX_PER_CLASS] for index in range(classes)]
    rounds: Iterator[int] = (
        int(positions[turn]) for turn in range(MAX_PER_CLASS) for positions in per_class if turn < len(positions)
    )
    chosen = [position for position, _ in zip(rounds, range(MAX_EXAMPLES), strict=False)]
    return sorted(chosen, key=lambda position: (int(labels[position]), position))


def _show(
    split: Split, position: int, classes: Sequence[str] | None, value_range: tuple[float, float] | None
) -> PreviewExample:
    raw = split.raw(position)
    label = _label(split.labels[position], classes)
    if not isinstance(raw, dict) and raw.dtype == object:
        text = raw.item().decode()[:MAX_CHARACTERS]
        return PreviewExample(split=split.name, index=position, label=label, shape=[], text=text)
    example = split.example(position)
    picture = looks_like_picture(example.shape)
    return PreviewExample(
        split=split.name,
        index=position,
        label=label,
        shape=list(example.shape),
        image_png=_png(example, value_range) if picture else None,
        values=None if picture else [float(value) for value in example.flat[:MAX_VALUES]],
        row=_row(raw) if split.has_rows else None,
    )


def _row(raw: Raw) -> dict[str, str | float | None] | None:
    if not isinstance(raw, dict):
        return None
    values = {name: column.item() for name, column in raw.items()}
    return {name: None if value in ("", None) or value != value else value for name, value in values.items()}  # noqa: PLR0124 (NaN)


def _label(label: Array, classes: Sequence[str] | None) -> str | float | list[str] | list[float]:
    if classes and label.ndim:
        return [name for name, there in zip(classes, label, strict=True) if there]
    if classes:
        return classes[int(label)]
    return float(label[0]) if len(label) == 1 else [float(value) for value in label]


def looks_like_picture(shape: Sequence[int]) -> bool:
    """`(h, w)`, `(h, w, 1)` or `(h, w, 3)` with at least 8 pixels a side."""
    return min(shape[:2]) >= MIN_SIDE and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def _png(example: Array, value_range: tuple[float, float] | None) -> str:
    pixels = example[..., 0] if example.ndim == 3 and example.shape[-1] == 1 else example
    image = Image.fromarray(_as_bytes(pixels, value_range))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _as_bytes(pixels: Array, value_range: tuple[float, float] | None) -> Array:
    """Values between the dataset's smallest and largest as 0 to 255; 8-bit values as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = value_range or (0.0, 1.0)
    return ((pixels.astype(np.float64) - low) * (255 / ((high - low) or 1))).round().astype(np.uint8)
