"""Values and options that do not fit: each is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DataError

Build = Callable[..., Path]
Check = Callable[..., Any]

GOOD = [(index, index % 2) for index in range(40)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("?", r"Column 'x', row 42: '\?' is no number as the others are"),
        ("=A1+1", "'=A1\\+1' is a formula"),
        ("@SUM(A1)", "is a formula"),
        ("0x10", "'0x10' is no number"),
        ("1e400", "row 42: inf is infinite or too large"),
        ("1e39", "1e\\+39 is infinite or too large for float32"),
    ],
)
def test_a_mistake_among_numbers_is_named(value: str, message: str, make_csv: Build, check: Check) -> None:
    with pytest.raises(DataError, match=message):
        check(make_csv("x,y", *GOOD, (value, 1)))


def test_decimal_commas_are_named(make_csv: Build, check: Check) -> None:
    rows = "".join(f"{index},5;{index % 2}\n" for index in range(20))
    with pytest.raises(DataError, match=r"Column 'x', row 2 .*'0,5' has a decimal comma"):
        check(make_csv(f"x;y\n{rows}"))


def test_texts_like_formulas_are_texts_where_texts_are_expected(make_csv: Build, check: Check) -> None:
    info = check(make_csv("n,x,y", *[(index, ["=1+1", "+cmd|x"][index % 2], index % 2) for index in range(40)]))[0]
    assert info.features == ["n", "x=+cmd|x", "x==1+1"]


@pytest.mark.parametrize(
    ("options", "message", "param"),
    [
        ({}, "Which column is to be predicted.*'a', 'b'", "target"),
        ({"target": "c"}, "target names the column 'c', which the file lacks. It has 'a', 'b'", "target"),
        ({"target": "b", "drop": ["c"]}, "drop names the column 'c'", "drop"),
        ({"target": "b", "drop": ["a"]}, "no column left", "drop"),
        ({"target": "b", "columns": ["a", "b"]}, "'b' is the target, so columns cannot name it", "columns"),
        ({"target": "b", "kind": "images"}, "kind is 'images', but the file holds a table", "kind"),
        ({"target": ["a", "b"]}, "no column left", None),
        ({"target": "b", "task": "binary", "class_names": ["x", "y"]}, "none of the classes", "class_names"),
    ],
)
def test_options_that_do_not_fit_are_named(
    options: dict[str, Any], message: str, param: str | None, make_csv: Build, check: Check
) -> None:
    path = make_csv("a,b", *[(index, 5 + index % 2) for index in range(40)])
    with pytest.raises(DataError, match=message) as caught:
        check(path, **options)
    assert param is None or caught.value.param == param


def test_options_for_tables_are_refused_for_images(
    make_zip: Build, check: Check, two_classes: dict[str, bytes]
) -> None:
    with pytest.raises(DataError, match="target is for tables"):
        check(make_zip(two_classes), target="label")


def test_rows_without_a_target_are_named(make_csv: Build, check: Check) -> None:
    for missing in ("", "NA"):
        with pytest.raises(DataError, match=r"'y' has no value in row 42 \(1 such rows\)"):
            check(make_csv("x,y", *GOOD, (1, missing)))
    with pytest.raises(DataError, match="'y' has no value in row 4"):
        check(make_csv("x,y", *[(index, ["", "a", "b"][(index + 1) % 3]) for index in range(30)]))


def test_one_class_is_too_few(make_csv: Build, check: Check) -> None:
    with pytest.raises(DataError, match="only one class, 'a'"):
        check(make_csv("x,y", *[(index, "a") for index in range(30)]))


def test_several_targets_must_be_numbers(make_csv: Build, check: Check) -> None:
    with pytest.raises(DataError, match="'c' holds texts such as 'q'"):
        check(make_csv("x,b,c", *[(index, index, "q") for index in range(30)]), target=["b", "c"])


def test_a_table_that_grows_too_wide_is_refused(make_csv: Build, check: Check) -> None:
    rows = [(f"v{index}", index % 2) for index in range(600)]
    with pytest.raises(DataError, match=r"vectors of .* numbers, .* bytes; at most"):
        check(make_csv("x,y", *rows), categorical=["x"], max_unpacked_bytes=500_000)
