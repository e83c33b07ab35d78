"""Image archives: decoded once to 8-bit pixels, in one pass over the archive.

- JPEG, PNG, WebP, BMP and GIF (its first frame), told by content; EXIF orientation is applied.
- Pixels are `(height, width, 3)` uint8, as `PIL.Image.convert("RGB")` gives them (transparency is dropped),
  or `(height, width, 1)` if every image of the dataset is grayscale. 16-bit images keep their upper 8 bits.
- What has an image's name or start but does not decode is corrupt, and listed; other files are left out.
"""

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from app.domain.dataset import MAX_CORRUPT_FRACTION, MAX_LISTED, CorruptExample, DatasetOptions
from app.domain.errors import DataError
from worker.engine.data.archives import DamagedMemberError, Member, read_members
from worker.engine.data.found import Array, ExampleWriter, Found, digest_example
from worker.engine.data.layout import read_layout
from worker.engine.data.ordered import map_ordered
from worker.engine.data.sketches import sketch

MAX_PIXELS = 50_000_000
MAX_IMAGE_BYTES = 256 * 2**20
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
DECODE_THREADS = 4

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"}
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst"}
_ARCHIVE_STARTS = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_GRAY_MODES = {"1", "L", "LA", "La"}
# What Pillow's decoders are known to raise on damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class UnreadableImageError(Exception):
    """This file is no image that Thaw can use; the message says why."""


@dataclass(frozen=True)
class Picture:
    """What is kept in memory of one decoded image."""

    parts: tuple[str, ...]
    """Folders and file name inside the archive."""
    content: bytes
    """sha256 of the file."""
    stored: bytes
    """sha256 of shape and pixels."""
    shape: tuple[int, ...]
    value_range: tuple[int, int]
    sketch: Array
    """What it is compared with others by; see `sketches`."""


@dataclass
class Pictures:
    """What an image archive holds."""

    pictures: list[Picture] = field(default_factory=list)
    folders: set[tuple[str, ...]] = field(default_factory=set)
    """All folders that the archive names or that hold something with an image's name."""
    corrupt: list[CorruptExample] = field(default_factory=list)
    """The first `MAX_LISTED`."""
    corrupt_count: int = 0
    left_out: list[str] = field(default_factory=list)
    """Names of files that are no images, the first `MAX_LISTED`."""
    left_out_count: int = 0


@dataclass(frozen=True)
class _Raw:
    """A file that says it is an image."""

    parts: tuple[str, ...]
    data: bytes
    unreadable: str | None = None


def read_images(path: Path, examples: Path, *, options: DatasetOptions, max_unpacked_bytes: int) -> Found:
    """Write every image's pixels to the file `examples`; DataError if the archive cannot be used."""
    writer = ExampleWriter(examples, "uint8", max_bytes=max_unpacked_bytes)
    try:
        found = read_pictures(path, writer, max_unpacked_bytes=max_unpacked_bytes)
    finally:
        writer.close()
    pictures = found.pictures
    if not pictures:
        held = f"it holds {', '.join(found.left_out[:5])}" if found.left_out else "it holds no files"
        message = f"The archive has no image that can be read ({', '.join(IMAGE_FORMATS)}); {held}."
        raise DataError(message)
    brought, labels = read_layout([picture.parts for picture in pictures], found.folders, options)
    return Found(
        kind="images",
        names=["/".join(picture.parts) for picture in pictures],
        contents=[picture.content for picture in pictures],
        stored=[picture.stored for picture in pictures],
        brought=brought,
        labels=labels,
        shapes=np.array([picture.shape for picture in pictures], np.int32),
        dtype="uint8",
        value_range=(min(p.value_range[0] for p in pictures), max(p.value_range[1] for p in pictures)),
        sketches=np.stack([picture.sketch for picture in pictures]),
        corrupt=found.corrupt,
        corrupt_count=found.corrupt_count,
        warnings=_warnings(found),
    )


def _warnings(found: Pictures) -> list[str]:
    if not found.left_out_count:
        return []
    listed = ", ".join(found.left_out[:5]) + (", …" if found.left_out_count > 5 else "")
    return [f"{found.left_out_count} files that are no images were left out: {listed}."]


def read_pictures(path: Path, writer: ExampleWriter, *, max_unpacked_bytes: int) -> Pictures:
    """Decode every image of the archive to `writer`; DataError if it is hostile or too much of it corrupt."""
    found = Pictures()
    with warnings.catch_warnings(), ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        warnings.simplefilter("ignore")  # odd metadata in strangers' files
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        members = read_members(path, max_unpacked_bytes=max_unpacked_bytes)
        for outcome in map_ordered(pool, _decode_raw, _raw_images(members, found), ahead=DECODE_THREADS):
            if isinstance(outcome, CorruptExample):
                found.corrupt_count += 1
                found.corrupt += [outcome][: MAX_LISTED - len(found.corrupt)]
            else:
                found.pictures.append(_write(*outcome, writer))
    _refuse_many_corrupt(found)
    return found


def _raw_images(members: Iterator[Member], found: Pictures) -> Iterator[_Raw]:
    for member in members:
        if member.ignored:
            continue
        if member.stream is None:
            found.folders.add(member.parts)
            continue
        raw = _read_image(member)
        if raw is None:
            found.left_out_count += 1
            found.left_out += [member.name][: MAX_LISTED - len(found.left_out)]
        else:
            found.folders.add(member.parts[:-1])
            yield raw


def _read_image(member: Member) -> _Raw | None:
    """The bytes of a file that says it is an image; `None` for others, DataError for archives in archives."""
    suffix = PurePosixPath(member.parts[-1]).suffix.lower()
    try:
        start = member.read(16)
        if suffix in _ARCHIVE_SUFFIXES or start.startswith(_ARCHIVE_STARTS):
            message = f"The archive holds another archive, '{member.name}'; pack the images themselves."
            raise DataError(message)
        if suffix not in _IMAGE_SUFFIXES and not start.startswith(_IMAGE_STARTS):
            return None
        if member.size > MAX_IMAGE_BYTES:
            return _Raw(member.parts, b"", f"{member.size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
        return _Raw(member.parts, start + member.read())
    except DamagedMemberError as error:
        return _Raw(member.parts, b"", f"damaged in the archive: {error}")


def _decode_raw(raw: _Raw) -> tuple[_Raw, Array, Array] | CorruptExample:
    """Pixels and sketch."""
    name = "/".join(raw.parts)
    if raw.unreadable:
        return CorruptExample(name=name, reason=raw.unreadable)
    try:
        pixels = decode(raw.data)
    except UnreadableImageError as error:
        return CorruptExample(name=name, reason=str(error))
    return raw, pixels, sketch(pixels)


def decode(data: bytes) -> Array:
    """The pixels, uint8 `(height, width, 1)` for grayscale and `(height, width, 3)` otherwise.

    Raises UnreadableImageError for what is no image, damaged, or of more than `MAX_PIXELS` by its header.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                message = f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} in all are accepted"
                raise UnreadableImageError(message)
            image.load()  # raises if the pixels are damaged; a second try would not
            _turn_upright(image)
            return _pixels(image)
    except UnidentifiedImageError as error:
        message = f"not a {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]} image"
        raise UnreadableImageError(message) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"more than {MAX_PIXELS:,} pixels by its header"
        raise UnreadableImageError(message) from error
    except _DECODER_ERRORS as error:
        message = f"does not decode: {error}"
        raise UnreadableImageError(message) from error


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _DECODER_ERRORS:
        # Cameras and editors write broken EXIF into good pictures.
        return


def _pixels(image: Image.Image) -> Array:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips everything above 255.
        return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None]
    if image.mode in _GRAY_MODES:
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _write(raw: _Raw, pixels: Array, sketched: Array, writer: ExampleWriter) -> Picture:
    if not writer.fits(pixels.size):
        message = (
            f"The decoded images take more than {writer.max_bytes:,} bytes, the limit here (passed at "
            f"'{'/'.join(raw.parts)}', {pixels.shape[0]} x {pixels.shape[1]} pixels). "
            "Make the images smaller before uploading them; models rarely look at more than 512 pixels a side."
        )
        raise DataError(message)
    writer.append(pixels)
    return Picture(
        parts=raw.parts,
        content=hashlib.sha256(raw.data).digest(),
        stored=digest_example(pixels),
        shape=pixels.shape,
        value_range=(int(pixels.min()), int(pixels.max())),
        sketch=sketched,
    )


def _refuse_many_corrupt(found: Pictures) -> None:
    total = found.corrupt_count + len(found.pictures)
    if not found.corrupt_count or found.corrupt_count < MAX_CORRUPT_FRACTION * total:
        return
    listed = "; ".join(f"'{example.name}': {example.reason}" for example in found.corrupt[:5])
    message = (
        f"{found.corrupt_count} of {total} images cannot be read, {found.corrupt_count / total:.0%}; "
        f"less than {MAX_CORRUPT_FRACTION:.0%} is accepted. {listed}. Repair or remove them."
    )
    raise DataError(message)
