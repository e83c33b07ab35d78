"""Archives from strangers: zip, tar and tar.gz, read member by member and never unpacked to disk.

Every member is checked before a byte of it is used, ignored ones too:
- its name stays inside the archive: no `..`, no absolute path, no drive letter, no control characters
- it is a regular file or a folder: no links, no devices, no sparse files; and nothing is encrypted
- no two members have the same name or share the same bytes
- what it says it unpacks to counts against the limit (zipfile never hands out more than that, and in a tar
  it is the layout itself), as does the ratio to the size of the archive
"""

import gzip
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from app.domain.errors import DataError

ArchiveFormat = Literal["zip", "tar", "tar.gz"]

MAX_MEMBERS = 1_000_000
MAX_DIRECTORY_BYTES = 128 * 2**20
"""zipfile reads a zip's whole directory into memory, at several times its size."""
MAX_RATIO = 100.0
RATIO_MATTERS_FROM_BYTES = 64 * 2**20
"""Below this a high ratio harms nobody: tiny pictures of one colour pack very well."""
TAR_PADDING_BYTES = 2**20
MAX_TAR_RECORD_BYTES = 2**20
"""tarfile reads name and attribute records whole into memory."""

_DRIVE = re.compile(r"^[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_IGNORED_NAMES = {"__macosx", "thumbs.db", "desktop.ini"}
_TAR_RECORDS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_PATCHED_FLAG, _ENCRYPTED_FLAGS = 0x20, 0x41
_END_OF_DIRECTORY, _END_OF_DIRECTORY_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
# What zipfile is known to raise on damaged files.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error)


class DamagedMemberError(Exception):
    """This member cannot be read, but the next ones can."""


@dataclass(frozen=True)
class Member:
    """One file or folder of an archive. `stream` can be read only until the next member is asked for."""

    parts: tuple[str, ...]
    size: int
    """In bytes, unpacked."""
    stream: IO[bytes] | None
    """`None` for folders."""

    @property
    def name(self) -> str:
        """The path inside the archive, with forward slashes."""
        return "/".join(self.parts)

    @property
    def ignored(self) -> bool:
        """Whether it is a file that operating systems leave behind, or a hidden one."""
        return any(part.startswith(".") or part.lower() in _IGNORED_NAMES for part in self.parts)

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all that are left; DamagedMemberError if they are not what was packed."""
        assert self.stream is not None
        try:
            return self.stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DamagedMemberError(str(error)) from error
        except (tarfile.TarError, gzip.BadGzipFile) as error:
            raise _damaged(error, "tar") from error


class Budget:
    """Counts what an archive unpacks to, and refuses it where that is too much."""

    def __init__(self, *, archive_bytes: int, max_unpacked_bytes: int, max_ratio: float | None) -> None:
        self._archive_bytes = archive_bytes
        self._max_unpacked_bytes = max_unpacked_bytes
        self._max_ratio = max_ratio
        self._unpacked_bytes = 0
        self._members: set[str] = set()

    def admit(self, name: str, size: int) -> None:
        """Count one member in; DataError if it is one too many, or there already."""
        if name in self._members:
            message = f"The archive holds '{name}' twice; every member must have its own name. Pack it anew."
            raise DataError(message)
        self._members.add(name)
        self._unpacked_bytes += size
        if len(self._members) > MAX_MEMBERS:
            message = f"The archive holds more than {MAX_MEMBERS:,} members."
            raise DataError(message)
        if self._unpacked_bytes > self._max_unpacked_bytes:
            message = (
                f"The archive unpacks to more than {self._max_unpacked_bytes:,} bytes, the limit here; "
                f"it is passed at '{name}' ({size:,} bytes)."
            )
            raise DataError(message)
        if self._is_bomb():
            message = (
                f"The archive looks like a decompression bomb: with '{name}' ({size:,} bytes) it unpacks to "
                f"{self._unpacked_bytes / self._archive_bytes:.0f} times its size; at most {self._max_ratio:.0f} times "
                "is accepted."
            )
            raise DataError(message)

    def _is_bomb(self) -> bool:
        if self._max_ratio is None or self._unpacked_bytes < RATIO_MATTERS_FROM_BYTES:
            return False
        return self._unpacked_bytes > self._max_ratio * self._archive_bytes


def sniff(path: Path) -> ArchiveFormat:
    """The format by content, whatever the file is called; DataError if it is none of ours."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:2] == b"\x1f\x8b":
        return "tar.gz"
    if start[257:262] == b"ustar":
        return "tar"
    message = (
        f"This file is {_describe(start)}; expected a zip, tar or tar.gz of class folders with images, "
        "an npz file with arrays x and y, or a table in CSV or Parquet."
    )
    raise DataError(message)


_KNOWN_STARTS = (
    (b"\x93NUMPY", "a single npy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\xff\xd8\xff", "a single JPEG image"),
    (b"\x89PNG", "a single PNG image"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstandard"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x80", "a Python pickle, which Thaw never opens,"),
)


def _describe(start: bytes) -> str:
    if not start:
        return "empty"
    return next((text for magic, text in _KNOWN_STARTS if start.startswith(magic)), "of a kind that Thaw does not know")


def read_members(path: Path, *, max_unpacked_bytes: int, max_ratio: float | None = MAX_RATIO) -> Iterator[Member]:
    """Every file and folder of the archive, in its order, each checked as the module says."""
    budget = Budget(archive_bytes=path.stat().st_size, max_unpacked_bytes=max_unpacked_bytes, max_ratio=max_ratio)
    kind = sniff(path)
    return _zip_members(path, budget) if kind == "zip" else _tar_members(path, budget, compressed=kind == "tar.gz")


def safe_parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a member's name; DataError if it leads anywhere but into the archive."""
    path = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    reason = _unsafe_because(path, parts)
    if reason:
        message = f"The archive's member {name!r} {reason}; member names must be relative paths inside the archive."
        raise DataError(message)
    return parts


def _unsafe_because(path: str, parts: tuple[str, ...]) -> str | None:
    if path.startswith("/"):
        return "has an absolute path"
    if _DRIVE.match(path):
        return "names a drive"
    if ".." in parts:
        return "points outside the archive ('..')"
    if _CONTROL.search(path):
        return "has control characters in its name"
    return None


# === zip ===


def _zip_members(path: Path, budget: Budget) -> Iterator[Member]:
    _refuse_huge_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _refuse_shared_bytes(infos)
            for info in infos:
                yield from _zip_member(archive, info, budget)
    except _ZIP_ERRORS as error:
        raise _damaged(error, "zip") from error


def _damaged(error: Exception, kind: str) -> DataError:
    return DataError(f"The {kind} file is damaged: {error}. Pack or upload it again.")


def _refuse_huge_directory(path: Path) -> None:
    """Look at the size that the zip's last record gives for the directory (APPNOTE 4.3.14 to 4.3.16)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 22 - 2**16 - 20 - 56))
        tail = file.read()
    end = tail.rfind(_END_OF_DIRECTORY)
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if tail[end - 20 : end - 16] == _LOCATOR_64 and tail[end - 76 : end - 72] == _END_OF_DIRECTORY_64:
        size = int.from_bytes(tail[end - 36 : end - 28], "little")
    if end >= 0 and size > MAX_DIRECTORY_BYTES and size != 0xFFFFFFFF:
        message = (
            f"The zip file's directory takes {size:,} bytes; at most {MAX_DIRECTORY_BYTES:,} are accepted, which is "
            f"some {MAX_MEMBERS:,} files."
        )
        raise DataError(message)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Iterator[Member]:
    parts = safe_parts(info.filename)
    _refuse_special(info)
    if info.is_dir():
        yield Member(parts, 0, None)
        return
    budget.admit("/".join(parts), info.file_size)
    with archive.open(info) as stream:
        yield Member(parts, info.file_size, stream)


def _refuse_special(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "neither a file nor a folder"
        message = f"The archive's member '{info.filename}' is {what}; only regular files are accepted."
        raise DataError(message)
    if info.flag_bits & _ENCRYPTED_FLAGS:
        message = f"The archive's member '{info.filename}' is encrypted; pack the archive without a password."
        raise DataError(message)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _PATCHED_FLAG:
        message = f"The archive's member '{info.filename}' is compressed in a way other than deflate; pack it anew."
        raise DataError(message)


def _refuse_shared_bytes(infos: Iterable[zipfile.ZipInfo]) -> None:
    """Members that overlap are how a small zip file unpacks to petabytes (Fifield, 2019)."""
    end, last = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            message = f"The archive's members '{last}' and '{info.filename}' share the same bytes; pack it anew."
            raise DataError(message)
        end, last = info.header_offset + 30 + info.compress_size, info.filename


# === tar ===


class _BoundedTarInfo(tarfile.TarInfo):
    """Refuses name and attribute records so large that reading them would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _TAR_RECORDS and info.size > MAX_TAR_RECORD_BYTES:
            message = f"The tar file's record for '{info.name}' takes {info.size:,} bytes; that is no sane archive."
            raise DataError(message)
        return info


def _tar_members(path: Path, budget: Budget, *, compressed: bool) -> Iterator[Member]:
    try:
        # gzip's own reader, because tarfile's checks no sums and stops after the first of several gzip members.
        with (
            (gzip.open if compressed else Path.open)(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_BoundedTarInfo) as archive,
        ):
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # untyped; it would keep every member
                yield _tar_member(archive, info, budget)
            file.read(TAR_PADDING_BYTES)  # so that gzip compares its sum
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise _damaged(error, "tar") from error


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, budget: Budget) -> Member:
    parts = safe_parts(info.name)
    if info.isdir():
        return Member(parts, 0, None)
    if not info.isreg() or info.issparse():
        what = "a link" if info.issym() or info.islnk() else "neither a file nor a folder"
        message = f"The archive's member '{info.name}' is {what}; only regular files are accepted."
        raise DataError(message)
    budget.admit("/".join(parts), info.size)
    return Member(parts, info.size, archive.extractfile(info))
