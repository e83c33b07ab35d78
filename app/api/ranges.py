"""`Range: bytes=…` (RFC 9110, section 14): one range; several are answered as none, which the RFC allows."""

import re
from dataclasses import dataclass
from typing import Final

ONE_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)


class UnsatisfiableRangeError(Exception):
    """The range begins behind the end of the content."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes from `start` up to but without `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.stop - self.start

    def content_range(self, total: int) -> str:
        """The `Content-Range` header; HTTP counts the last byte in."""
        return f"bytes {self.start}-{self.stop - 1}/{total}"


def requested_range(header: str | None, *, total: int) -> ByteRange | None:
    """The part of `total` bytes that the header asks for; `None`: all of it.

    What is no single well-formed range is to be ignored. Raises UnsatisfiableRangeError.
    """
    match = ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _suffix(int(match[2]), total)
    start = int(match[1])
    stop = min(int(match[2]) + 1, total) if match[2] else total
    if match[2] and int(match[2]) < start:
        return None  # not well-formed
    if start >= total:
        raise UnsatisfiableRangeError
    return ByteRange(start, stop)


def _suffix(length: int, total: int) -> ByteRange:
    """The last `length` bytes."""
    if length == 0 or total == 0:
        raise UnsatisfiableRangeError
    return ByteRange(max(0, total - length), total)
