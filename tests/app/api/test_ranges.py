"""`Range: bytes=…`."""

import pytest

from app.api.ranges import ByteRange, UnsatisfiableRangeError, requested_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=0-499", ByteRange(0, 500)),
        ("bytes=500-", ByteRange(500, 1000)),
        ("bytes=-1", ByteRange(999, 1000)),
        ("bytes=-5000", ByteRange(0, 1000)),
        ("bytes=990-5000", ByteRange(990, 1000)),
        ("BYTES = 1-2", ByteRange(1, 3)),
    ],
)
def test_a_single_range_is_cut_to_the_content(header: str, expected: ByteRange) -> None:
    assert requested_range(header, total=1000) == expected


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "items=0-1"),
        *("bytes=0-1,5-6", "bytes=0-1, -1", "bytes=--1", f"bytes={'9' * 19}-"),
    ],
)
def test_what_is_no_single_well_formed_range_is_ignored(header: str | None) -> None:
    assert requested_range(header, total=1000) is None


@pytest.mark.parametrize(
    ("header", "total"), [("bytes=1000-", 1000), ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_a_range_behind_the_end_is_unsatisfiable(header: str, total: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        requested_range(header, total=total)


def test_content_range_counts_the_last_byte_in() -> None:
    assert ByteRange(0, 500).content_range(1234) == "bytes 0-499/1234"
