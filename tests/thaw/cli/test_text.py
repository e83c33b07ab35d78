"""How values look to people."""

import time

import pytest

from thaw.cli import text


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (2_500_000, "2.5 MB"),
        (3e12, "3.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(count: float, expected: str) -> None:
    assert text.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.7, "1 min 0 s"), (75, "1 min 15 s"), (3900, "1 h 5 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(5, "5 s ago"), (300, "5 min ago"), (7300, "2 h ago"), (-9, "0 s ago")]
)
def test_ages(seconds: float, expected: str) -> None:
    assert text.ago(time.time() - seconds) == expected


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [(None, "-"), ([], "scalar"), ([None, 8, 8, 1], "? x 8 x 8 x 1"), ([[None, 1], [None, 2]], "? x 1, ? x 2")],
)
def test_shapes(dimensions: list[object] | None, expected: str) -> None:
    assert text.shape(dimensions) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.931234, "0.9312"), (1e-4, "0.0001"), (1.2e-7, "1.2e-07"), ("nan", "nan")]
)
def test_metrics(value: object, expected: str) -> None:
    assert text.measured(value) == expected
