"""Flips, crops, zooms, shifts and turns of pictures: however many follow each other, one resampling.

Keras' layers resample once each, which blurs a little more every time and costs: one of them takes half as long again
for a batch of 32 pictures of 160 x 160 as MobileNet 0.25 takes to run on it (two cores). So here their coordinates are
multiplied, and the pixels are fetched once: by `affine_transform`, or by `crop_and_resize`, which is three times as
fast, where no place from outside the picture can be needed.

All coordinates are pixels from the middle of a picture, to the right and down; a map leads from where a pixel is put
to where its value comes from.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from app.domain.augmentation import Crop, Flip, Rotation, Translation, Zoom
from worker.engine.objective import Tensor

Geometric = Flip | Crop | Zoom | Translation | Rotation
Map = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""`x' = a x + b y + c`, `y' = d x + e y + f`: six numbers `(batch,)` each."""
Draw = Any
"""`keras.random.SeedGenerator`: gives another seed for each draw."""

INSIDE = 1 - 1e-5
"""Keeps crops from touching the border, where rounding would fetch a black pixel from outside."""
DEGREES = 360
FULL_TURN = 6.283185307179586


def moved(x: Tensor, wishes: Sequence[Geometric], draw: Draw) -> Tensor:
    """Pictures `(batch, height, width, channels)` changed by all wishes in their order, each picture by itself.

    What comes to lie outside the old picture is filled with its mirror image.
    """
    batch, height, width, _ = ops.shape(x)
    there = (height - 1) / 2, (width - 1) / 2
    whole: Map | None = None
    for wish in wishes:
        step = _drawn(wish, batch, (height, width), draw)
        whole = step if whole is None else _after(whole, step)
    assert whole is not None
    if all(isinstance(wish, Flip | Crop) for wish in wishes):
        return tf.image.crop_and_resize(x, _boxes(whole, there), tf.range(batch), (height, width))
    return ops.image.affine_transform(x, _projective(whole, there), interpolation="bilinear", fill_mode="reflect")


def _drawn(wish: Geometric, batch: Tensor, size: tuple[int, int], draw: Draw) -> Map:
    def uniform(low: float, high: float) -> Tensor:
        return keras.random.uniform((batch,), low, high, seed=draw)

    one, zero, (height, width) = ops.ones((batch,)), ops.zeros((batch,)), size
    match wish:
        case Flip():
            across = ops.sign(uniform(-1, 1) + 1e-12) if wish.mode != "vertical" else one
            down = ops.sign(uniform(-1, 1) + 1e-12) if wish.mode != "horizontal" else one
            return across, zero, zero, zero, down, zero
        case Crop():
            part = uniform(wish.scale, 1) * INSIDE
            room = (1 - part) / 2
            return part, zero, uniform(-1, 1) * room * (width - 1), zero, part, uniform(-1, 1) * room * (height - 1)
        case Zoom():
            part = uniform(1 - wish.factor, 1 + wish.factor)
            return part, zero, zero, zero, part, zero
        case Translation():
            right, down = (uniform(-wish.factor, wish.factor) for _ in range(2))
            return one, zero, right * width, zero, one, down * height
        case Rotation():
            angle = uniform(-wish.degrees, wish.degrees) * (FULL_TURN / DEGREES)
            return ops.cos(angle), -ops.sin(angle), zero, ops.sin(angle), ops.cos(angle), zero


def _after(first: Map, then: Map) -> Map:
    """Both changes, one after the other: a pixel of the last picture comes from `then`, and that from `first`."""
    a, b, c, d, e, f = first
    p, q, r, s, t, u = then
    return a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f


def _boxes(whole: Map, there: tuple[float, float]) -> Tensor:
    """Corners `(batch, 4)`: top, left, bottom, right, from 0 to 1; mirrored where top is below bottom."""
    across, _, right, _, down, below = whole
    y, x = (max(middle, 0.5) for middle in there)
    corners = [below - down * y, right - across * x, below + down * y, right + across * x]
    return ops.stack([corner / (2 * half) + 0.5 for corner, half in zip(corners, (y, x, y, x), strict=True)], axis=-1)


def _projective(whole: Map, there: tuple[float, float]) -> Tensor:
    """As TensorFlow wants it, `(batch, 8)`: pixels from the top left corner."""
    a, b, c, d, e, f = whole
    y, x = there
    zero = ops.zeros_like(a)
    return ops.stack([a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y, zero, zero], axis=-1)
