"""Nearly equal pictures are found, others are not, and the search stays bounded."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from worker.engine.data import sketches
from worker.engine.data.images import decode
from worker.engine.data.sketches import close_pairs, sketch


def scene(seed: int) -> Image.Image:
    """Soft blobs of light, as photos have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def sketched(images: list[Image.Image]) -> np.ndarray:
    return np.stack([sketch(np.asarray(image)) for image in images])


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.resize((80, 60)),
        lambda image: image.resize((333, 250)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["JPEG", "smaller", "larger", "darker", "less contrast", "gray"],
)
def test_copies_are_close_and_others_are_not(change: Callable[[Image.Image], Image.Image]) -> None:
    scenes = [scene(seed) for seed in range(60)]
    images = [*scenes, *(change(image) for image in scenes)]
    pairs = close_pairs(sketched(images), np.repeat([0, 2], 60))
    assert pairs == [(index, index + 60) for index in range(60)]


def test_only_pairs_across_groups_count() -> None:
    images = [scene(1), recompressed(scene(1)), scene(2), recompressed(scene(2))]
    assert close_pairs(sketched(images), np.array([0, 0, 1, 2])) == [(2, 3)]
    assert close_pairs(sketched(images), np.array([0, 0, 0, 0])) == []


def test_pictures_of_one_colour_are_close_to_nothing() -> None:
    flat = [Image.new("RGB", (50, 50), (level, level, level)) for level in (10, 10, 200)]
    assert close_pairs(sketched(flat), np.array([0, 1, 2])) == []


def test_gray_pixels_and_tiny_pictures_have_sketches() -> None:
    assert sketch(np.full((1, 1, 1), 7, np.uint8)).shape == (sketches.SKETCH_BYTES,)
    assert sketch(np.zeros((2, 300, 3), np.uint8)).dtype == np.uint8


def test_every_pair_within_seven_bits_is_a_candidate() -> None:
    """The buckets miss none: compared with all pairs."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (20, sketches.SKETCH_BYTES), np.uint8)
    near = np.repeat(base, 10, axis=0)
    for row in near:
        for bit in random.choice(64, random.integers(0, 11), replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    groups = random.integers(0, 3, len(near))
    bits = np.unpackbits(near[:, :8], axis=1)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    same = np.arange(len(near)) // 10
    expected = [
        (one, other)
        for one in range(len(near))
        for other in range(one + 1, len(near))
        if apart[one, other] <= 7 and groups[one] != groups[other] and same[one] == same[other]
    ]
    assert len(expected) > 100
    assert close_pairs(near, groups) == expected


def test_the_search_ends_where_everything_looks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MAX_CANDIDATES", 1000)
    monkeypatch.setattr(sketches, "CHUNK", 100)
    looked_at = []
    correlated = sketches._correlated
    monkeypatch.setattr(sketches, "_correlated", lambda *rows: looked_at.append(len(rows[0])) or correlated(*rows))
    alike = np.repeat(sketched([scene(3)]), 3000, axis=0)
    pairs = close_pairs(alike, np.arange(3000) % 2)
    assert sum(looked_at) <= 1100
    assert 900 < len(pairs) <= 1100


def test_a_dataset_tells_of_copies_in_other_splits(make_zip: Any, check: Any) -> None:
    def encoded(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    files = {f"{name}/{index}.png": encoded(scene(100 * ord(name) + index)) for name in "ab" for index in range(12)}
    placed = {f"train/{name}": data for name, data in files.items()}
    for split in ("validation", "test"):
        placed |= {f"{split}/{name}/x.png": encoded(scene(7 + ord(name) + len(split))) for name in "ab"}
    placed["test/a/copy.png"] = encoded(recompressed(scene(100 * ord("a") + 5)))
    placed["test/b/same.png"] = placed["train/b/4.png"]
    info = check(make_zip(placed))[0]
    assert (info.duplicates_across_splits, info.near_duplicates_across_splits) == (2, 2)
    assert info.near_duplicates == [["train/a/5.png", "test/a/copy.png"]]
    assert any("2 images are nearly equal to one in another split, for instance" in text for text in info.warnings)


def test_real_photos_and_their_copies(shared_data: Path) -> None:
    """What the module says of trashnet, on a part of it."""
    import zipfile

    with zipfile.ZipFile(shared_data / "trashnet.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")][::6]
        photos = [Image.fromarray(decode(archive.read(name))) for name in names]
    copies = [recompressed(photo.resize((photo.width // 2, photo.height // 2)), 70) for photo in photos]
    pairs = set(close_pairs(sketched([*photos, *copies]), np.repeat([0, 1], len(photos))))
    found = {(index, index + len(photos)) for index in range(len(photos))}
    assert len(pairs & found) >= 0.97 * len(photos)
    assert len(pairs - found) <= 6  # the same object, seen again
