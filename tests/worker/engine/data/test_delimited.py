"""CSV files as people and hostile programs write them: read, or refused by row and column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DataError
from worker.engine.data.delimited import read_csv

Build = Callable[..., Path]


def columns(path: Path, max_bytes: int = 2**30) -> dict[str, Any]:
    return {name: values.to_pylist() for name, values in read_csv(path, max_bytes=max_bytes).columns.items()}


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x y\n2,\n",
        "a;b\r\n1;x y\r\n2;\r\n",
        "a\tb\n1\tx y\n2\t",
        '\ufeff"a"|"b"\n"1"|"x y"\n2|\n',
        "\n\na , b\n1,x y\n\n2,\n",
    ],
    ids=["comma", "semicolon and CRLF", "tab, no last newline", "bar, quotes and BOM", "empty lines"],
)
def test_separators_quotes_and_line_ends_are_understood(content: str, make_csv: Build) -> None:
    assert columns(make_csv(content)) == {"a": ["1", "2"], "b": ["x y", ""]}


def test_fields_may_hold_separators_quotes_and_lines(make_csv: Build) -> None:
    assert columns(make_csv('a,b\n"x,\ny","say ""hi"""\n1,"5"" pipe"\n')) == {
        "a": ["x,\ny", "1"],
        "b": ['say "hi"', '5" pipe'],
    }


def test_the_index_of_pandas_is_left_out(make_csv: Build) -> None:
    sheet = read_csv(make_csv(",a\n0,x\n1,y\n"), max_bytes=100)
    assert list(sheet.columns) == ["a"]
    assert "no name and was left out" in sheet.warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n \n", "Column 1 has no name"),
        (b"a,b\n", "no rows, only the columns 'a', 'b'"),
        (b"a,b\n1,2\n3\n4,5,6\n", r"2 columns, but row 3 has 1 fields \(2 rows are so\): '3'"),
        (b"a,b\n1,2,\n", "row 2 has 3 fields"),
        (b"a,b,a\n1,2,3\n", "'a' stands twice, in columns 1 and 3"),
        (b"a,,b\n1,2,3\n", "Column 2 has no name"),
        (b"1,2.5\n3,4\n", "first row holds numbers only"),
        ("a,b\n1,ä\n".encode("latin-1"), "0xe4 in column 'b', row 2"),
        ("ä,b\n1,2\n".encode("latin-1"), "0xe4 in row 1"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"a,b\n1,x\x00y\n", "UTF-16 or holds bytes"),
        (b"a,b\n" + b"1,2\n" * 300_000 + b"1,x\x00y\n", "Column 'b', row 300002: the field holds a zero byte"),
        (b'a,b\n1,"never closed\n2,3\n4,5\n', "A quotation mark in row 2 is never closed"),
        (b"a,b\n1," + b"x" * 1_100_000 + b"\n", "Column 'b', row 2: the field has 1,100,000 bytes"),
        (b"a,b\n1,2\n" + b"x" * 40_000_000 + b"\n", "A row of the CSV file is longer than 16,777,216 bytes"),
        (b"a" * 300 + b",b\n1,2\n", "name of column 1"),
        (b",".join(b"c%d" % number for number in range(2_001)) + b"\n1\n", "2,001 columns"),
    ],
)
def test_what_is_wrong_is_said_with_row_and_column(content: bytes, message: str, make_csv: Build) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(make_csv(content), max_bytes=2**30)


def test_a_file_over_the_limit_is_not_read(make_csv: Build) -> None:
    with pytest.raises(DataError, match="has 12 bytes; at most 11"):
        read_csv(make_csv("a,b\n1,2\n3,4\n"), max_bytes=11)
