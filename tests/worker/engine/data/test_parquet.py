"""Parquet files: damaged ones, and small ones that unpack to much."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.domain.errors import DataError
from worker.engine.data.parquet import read_parquet

Build = Callable[..., Path]


def test_a_damaged_file_is_refused(make_parquet: Build, tmp_path: Path) -> None:
    whole = make_parquet({"a": [1.0, 2.0], "b": ["x", "y"]}).read_bytes()
    for number, content in enumerate((whole[:-4], b"PAR1", whole[:40] + b"\xff" * 30 + whole[70:])):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(content)
        with pytest.raises(DataError, match="Parquet file cannot be read"):
            read_parquet(path, max_bytes=2**30)


def test_a_small_file_of_many_rows_is_refused_by_its_count(make_parquet: Build) -> None:
    path = make_parquet({"a": np.zeros(2_000_000)})
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="2,000,000 rows of 1 columns, more than the 1,000,000 bytes"):
        read_parquet(path, max_bytes=1_000_000)


def test_a_small_file_of_long_texts_is_refused_while_it_is_read(make_parquet: Build) -> None:
    path = make_parquet({"a": [f"{number}" + "x" * 100_000 for number in range(50)], "b": [1] * 50})
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        read_parquet(path, max_bytes=1_000_000)


def test_a_text_that_repeats_counts_each_time(make_parquet: Build) -> None:
    path = make_parquet({"a": ["x" * 1000] * 100_000})
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        read_parquet(path, max_bytes=2_000_000)


def test_columns_that_hold_neither_texts_nor_numbers_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"a": [1], "nested": [[1, 2]], "raw": [b"x"], "__index_level_0__": [7]})
    parquet.write_table(table, tmp_path / "x.parquet")
    sheet = read_parquet(tmp_path / "x.parquet", max_bytes=1000)
    assert list(sheet.columns) == ["a"]
    assert "'nested' (list<element: int64>), 'raw' (binary), '__index_level_0__' (int64)" in sheet.warnings[0]


def test_a_file_of_nothing_usable_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"nested": [[1, 2]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column of texts, numbers or bools"):
        read_parquet(tmp_path / "x.parquet", max_bytes=1000)


def test_a_file_without_rows_is_refused(make_parquet: Build) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_parquet(make_parquet({"a": pa.array([], pa.float64())}), max_bytes=1000)
