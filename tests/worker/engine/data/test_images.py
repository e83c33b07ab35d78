"""Images are decoded as people see them; what is no image is named."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.domain.errors import DataError
from worker.engine.data.found import Array
from worker.engine.data.images import MAX_PIXELS, UnreadableImageError, decode

Build = Callable[..., Path]
Check = Callable[..., Any]


def encode(pixels: Array, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_declared_size(width: int, height: int) -> bytes:
    """A few hundred bytes that promise many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_every_format_decodes_to_height_width_channels(kind: str) -> None:
    pixels = decode(encode(np.full((5, 7, 3), 200, np.uint8), kind))
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.uint8
    assert abs(int(pixels.mean()) - 200) <= 3


def test_pixels_are_those_that_were_saved() -> None:
    saved = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    np.testing.assert_array_equal(decode(encode(saved)), saved)


def test_orientation_from_exif_is_applied() -> None:
    saved = np.zeros((4, 6, 3), np.uint8)
    saved[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    pixels = decode(encode(saved, exif=exif.tobytes()))
    assert pixels.shape == (6, 4, 3)
    assert pixels[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("exif", [b"Exif\x00\x00nonsense", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00MM"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_does_not_spoil_a_good_picture(exif: bytes) -> None:
    saved = np.full((4, 6, 3), 200, np.uint8)
    np.testing.assert_allclose(decode(encode(saved, "JPEG", exif=exif)), saved, atol=2)


def test_grayscale_keeps_one_channel() -> None:
    saved = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(decode(encode(saved))[..., 0], saved)


def test_sixteen_bit_grayscale_keeps_its_upper_eight_bits() -> None:
    saved = np.array([[0, 255, 256], [30_000, 65_279, 65_535]], np.uint16)
    np.testing.assert_array_equal(decode(encode(saved))[..., 0], [[0, 0, 1], [117, 254, 255]])


def test_black_and_white_becomes_0_and_255() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue())[..., 0], [[0, 255], [255, 0]])


def test_palettes_and_transparency_become_rgb() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 90, 128
    assert decode(encode(rgba)).tolist() == [[[90, 0, 0]] * 2] * 2
    buffer = io.BytesIO()
    Image.fromarray(rgba[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE).save(buffer, "PNG")
    assert decode(buffer.getvalue()).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"just a text", "not a JPEG, PNG, WEBP, BMP or GIF image"),
        (b"", "not a JPEG"),
        (encode(np.zeros((90, 90, 3), np.uint8), "JPEG")[:-300], "(?i)truncated"),
        (encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[:-9000], "truncated"),
        (png_of_declared_size(13_000, 13_000), f"{MAX_PIXELS:,}"),
        (png_of_declared_size(8_000, 8_000), "8000 x 8000 pixels"),
        (png_of_declared_size(60_000, 60_000), f"{MAX_PIXELS:,}"),
        (encode(np.zeros((9, 9, 3), np.uint8), "TIFF"), "not a JPEG"),
        (encode(np.zeros((9, 9, 3), np.uint8), "PPM"), "not a JPEG"),
    ],
    ids=["text", "empty", "JPEG cut off", "PNG cut off", "169 MP", "64 MP", "3600 MP", "TIFF", "PPM"],
)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_what_is_no_readable_image_says_why(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableImageError, match=says):
        decode(data)


def test_damaged_images_are_unreadable_and_nothing_worse() -> None:
    rng = np.random.default_rng(3)
    saved = rng.integers(0, 256, (20, 20, 3), np.uint8)
    unreadable = 0
    for kind in ("PNG", "BMP", "GIF", "WEBP", "JPEG"):
        original = encode(saved, kind)
        for _ in range(150):
            data = bytearray(original)
            for position in rng.integers(0, len(data), 3):
                data[position] = rng.integers(0, 256)
            try:
                decode(bytes(data))
            except UnreadableImageError:
                unreadable += 1
    assert unreadable > 100


# === Archives ===


def test_corrupt_images_below_five_percent_are_listed(
    make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    info, _, _ = check(make_zip(two_classes | {"cat/broken.jpg": b"no image"}))
    assert info.corrupt_count == 1
    assert info.corrupt[0].name == "cat/broken.jpg"
    assert "not a JPEG" in info.corrupt[0].reason
    assert sum(split.examples for split in info.splits.values()) == 40


def test_five_percent_of_corrupt_images_are_too_many(
    make_zip: Build, check: Check, two_classes: dict[str, bytes], tmp_path: Path
) -> None:
    broken = {"cat/19.png": b"no image", "dog/19.png": png_of_declared_size(13_000, 13_000)}
    with pytest.raises(DataError, match=r"2 of 40 images cannot be read, 5%.*'cat/19\.png': not a JPEG"):
        check(make_zip(two_classes | broken))
    assert not (tmp_path / "dataset").exists()


def test_a_class_whose_images_are_all_corrupt_is_empty(
    make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    with pytest.raises(DataError, match="class folder 'bird' holds no readable image"):
        check(make_zip(two_classes | {"bird/1.jpg": b"no image"}))


def test_files_that_are_no_images_are_left_out_and_that_is_said(
    make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    info, _, _ = check(make_zip(two_classes | {"README.txt": b"hello", "cat/.DS_Store": b"", "labels.csv": b"a,b"}))
    assert info.corrupt_count == 0
    assert info.warnings == ["2 files that are no images were left out: README.txt, labels.csv."]


@pytest.mark.parametrize("name", ["cat/more.zip", "cat/more.tar.gz", "cat/0.png.jpg"])
def test_an_archive_in_the_archive_is_refused(
    name: str, make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    with pytest.raises(DataError, match=f"holds another archive, '{name}'"):
        check(make_zip(two_classes | {name: b"PK\x03\x04" + bytes(50)}))


def test_an_archive_without_images_is_refused(make_zip: Build, check: Check) -> None:
    with pytest.raises(DataError, match=r"no image that can be read.*it holds notes\.txt"):
        check(make_zip({"notes.txt": b"hello"}))
    with pytest.raises(DataError, match="it holds no files"):
        check(make_zip({}))


def test_images_that_take_too_much_room_decoded_are_refused(
    make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    wide = {name: encode(np.zeros((400, 400, 3), np.uint8)) for name in ("cat/big.png", "dog/big.png")}
    with pytest.raises(DataError, match=r"decoded images take more than 500,000 bytes.*400 x 400"):
        check(make_zip(two_classes | wide), max_unpacked_bytes=500_000)


def test_images_of_one_size_are_one_array_and_others_are_not(make_zip: Build, check: Check, picture: Build) -> None:
    same = {f"{name}/{seed}.png": picture(seed + 50 * (name == "dog")) for name in ("cat", "dog") for seed in range(5)}
    assert check(make_zip(same), name="same")[0].example_shape == [9, 12, 3]
    taller = check(make_zip(same | {"dog/tall.png": picture(99, size=(12, 30))}), name="taller")[0]
    assert taller.example_shape == [None, 12, 3]
    wider = check(make_zip(same | {"dog/wide.png": picture(99, size=(13, 30))}), name="wider")[0]
    assert wider.example_shape == [None, None, 3]


def test_only_a_dataset_of_grayscale_images_has_one_channel(make_tar: Build, check: Check, picture: Build) -> None:
    gray = {
        f"{name}/{seed}.png": picture(seed + 50 * (name == "dog"), mode="L")
        for name in ("cat", "dog")
        for seed in range(5)
    }
    assert check(make_tar(gray), name="gray")[0].example_shape == [9, 12, 1]
    assert check(make_tar(gray | {"dog/red.png": picture(99)}), name="mixed")[0].example_shape == [9, 12, 3]
