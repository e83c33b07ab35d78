"""A few examples of each class, as pictures where they are some."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Build = Callable[..., Path]
Check = Callable[..., Any]

Y = np.arange(120) % 3


def decoded(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def test_pictures_are_at_most_128_pixels_and_keep_their_form(
    make_zip: Build, check: Check, picture: Callable[..., bytes]
) -> None:
    files = {
        f"{name}/{seed}.png": picture(seed + 10 * (name == "dog"), size=(400, 200))
        for name in ("cat", "dog")
        for seed in range(4)
    }
    _, preview, _ = check(make_zip(files))
    assert {example.label for example in preview} == {"cat", "dog"}
    assert all(decoded(example.image_png).size == (128, 64) for example in preview)
    assert preview[0].shape == [200, 400, 3]
    assert {example.split for example in preview} == {"train"}


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3)])
def test_arrays_that_look_like_pictures_are_shown_between_their_extremes(
    shape: tuple[int, ...], make_npz: Build, check: Check
) -> None:
    x = np.random.default_rng(0).uniform(-3, 5, (120, *shape))
    x[:, 0, 0], x[:, 0, 1] = -3, 5
    _, preview, _ = check(make_npz(x=x, y=Y))
    image = np.asarray(decoded(preview[0].image_png))
    assert image.shape == (shape if shape[-1:] == (3,) else shape[:2])
    assert image[0, 0].min() == 0
    assert image[0, 1].max() == 255


@pytest.mark.parametrize("shape", [(64,), (4, 30), (8, 9, 4), (8, 9, 3, 1)])
def test_other_arrays_are_shown_by_their_first_numbers(shape: tuple[int, ...], make_npz: Build, check: Check) -> None:
    x = np.random.default_rng(0).uniform(-3, 5, (120, *shape)).astype(np.float32)
    _, preview, _ = check(make_npz(x=x, y=Y))
    assert preview[0].image_png is None
    assert len(preview[0].values) == 32
    assert {tuple(example.values) for example in preview} <= {tuple(row.ravel()[:32].tolist()) for row in x}


def test_many_classes_share_thirty_places(make_npz: Build, check: Check) -> None:
    x = np.arange(800, dtype=np.float32)
    _, preview, _ = check(make_npz(x=x, y=np.arange(800) % 40))
    assert len({example.label for example in preview}) == len(preview) == 30


def test_numbers_to_predict_are_shown_with_their_value(make_npz: Build, check: Check) -> None:
    x = np.arange(100, dtype=np.float32)
    _, preview, _ = check(make_npz(x=x, y=x / 3), name="one")
    assert len(preview) == 30
    assert all(example.label == pytest.approx(example.values[0] / 3) for example in preview)
    _, preview, _ = check(make_npz(x=x, y=np.stack([x / 3, -x], axis=1)), name="two")
    assert preview[0].label[1] == -preview[0].values[0]


def test_several_labels_are_counted_for_each_and_shown_by_their_names(make_npz: Build, check: Check) -> None:
    x = np.arange(40, dtype="float32").reshape(20, 2)
    y = np.stack([np.arange(20) % 2, np.ones(20), np.arange(20) < 9], axis=1).astype("int64")
    info, preview, _ = check(make_npz(x=x, y=y), class_names=["odd", "always", "early"])
    assert (info.task, info.targets, info.classes) == ("multi_label", 1, ["odd", "always", "early"])
    counts = [split.class_counts or {} for split in info.splits.values()]
    assert {name: sum(each[name] for each in counts) for name in ("odd", "always", "early")} == {
        "odd": 10,
        "always": 20,
        "early": 9,
    }
    assert all(each["early"] for each in counts)  # the rarest label is in every split
    number = int((preview[0].values or [0])[0]) // 2
    assert preview[0].label == [name for name, there in zip(info.classes or [], y[number], strict=True) if there]
