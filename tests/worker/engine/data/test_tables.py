"""Tables: which columns are used for what, and what becomes of them."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import DataError
from worker.engine.data.stored import open_dataset

Build = Callable[..., Path]
Check = Callable[..., Any]

ROWS = [(index, f"{index % 7}.5", ["red", "white", ""][index % 3], index % 2) for index in range(60)]


def rows_of(folder: Path) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Every raw row with its label, by split."""
    dataset = open_dataset(folder)
    splits = {name: dataset.split(name) for name in dataset.info.splits}
    return {
        name: [({key: value.item() for key, value in split.raw(i).items()}, split.labels[i]) for i in range(len(split))]
        for name, split in splits.items()
    }


def test_numbers_texts_and_classes_are_found_out(make_csv: Build, check: Check) -> None:
    info, preview, folder = check(make_csv("id,size,colour,target", *ROWS))
    assert (info.kind, info.task, info.classes, info.dtype) == ("table", "binary", ["0", "1"], "float32")
    assert [(column.name, column.type, column.missing, column.categories) for column in info.columns] == [
        ("id", "number", 0, None),
        ("size", "number", 0, None),
        ("colour", "category", 20, 3),
    ]
    assert info.features == ["id", "size", "colour=(missing)", "colour=red", "colour=white"]
    assert info.example_shape == [5]
    assert preview[0].row is not None
    assert set(preview[0].row) == {"id", "size", "colour"}
    stored = sorted(
        (row["id"], row["size"], row["colour"], int(label))
        for split in rows_of(folder).values()
        for row, label in split
    )
    assert stored == [(index, float(size), colour, label) for index, size, colour, label in ROWS]


def test_the_training_split_comes_out_standardized(make_csv: Build, check: Check) -> None:
    info, _, folder = check(make_csv("id,size,colour,target", *ROWS))
    dataset = open_dataset(folder)
    train = dataset.split("train").examples(np.arange(info.splits["train"].examples))
    raw = np.array([row["size"] for row, _ in rows_of(folder)["train"]])
    np.testing.assert_allclose(train[:, 1], (raw - raw.mean()) / raw.std(), atol=1e-6)
    np.testing.assert_array_equal(train[:, 2:].sum(axis=1), 1)
    low = min(float(dataset.split(name).examples(np.arange(len(dataset.split(name)))).min()) for name in info.splits)
    assert info.value_range[0] == low


def test_without_standardizing_numbers_stay_as_they_are(make_csv: Build, check: Check) -> None:
    _, _, folder = check(make_csv("id,size,colour,target", *ROWS), standardize=False)
    split = open_dataset(folder).split("test")
    assert all(split.example(index)[1] == split.raw(index)["size"].item() for index in range(len(split)))


def test_values_outside_the_training_split_change_nothing_that_was_fitted(make_csv: Build, check: Check) -> None:
    """An outlier and a new category in a row of the test split: numbers and vocabulary stay."""
    rows = [list(row) for row in ROWS]
    rows[7][1], rows[7][2] = "", "green"
    fitted: dict[str, bytes] = {}
    moved = 0
    for attempt in range(40):
        rows[7][0] = 1_000_000 + attempt  # the row's place depends on all of it
        _, _, folder = check(make_csv("id,size,colour,target", *rows), name=f"d{attempt}")
        split = next(name for name, its in rows_of(folder).items() if any(row["id"] >= 1_000_000 for row, _ in its))
        encoding = json.loads((folder / "table.json").read_text())["encoding"]
        if split == "train":
            moved += "green" in encoding["categories"][0]["vocabulary"] and encoding["numbers"][1]["flagged"]
        else:
            fitted.setdefault(json.dumps(encoding), split)
    assert moved  # in the training split it does count
    # One encoding for all of them: what the others see is the same 59 rows, whatever this row holds.
    assert len(fitted) == 1
    assert "green" not in next(iter(fitted))


def test_equal_rows_land_in_the_same_split(make_csv: Build, check: Check) -> None:
    info, _, _ = check(make_csv("a,b,target", *[(index // 4, "x", index % 2) for index in range(200)]))
    assert info.duplicates_across_splits == 0
    assert any("exact copies of others, for instance 'row 2' and 'row 3'" in warning for warning in info.warnings)


def test_the_digest_knows_names_values_and_what_is_done_to_them(make_csv: Build, check: Check) -> None:
    base = {"target": "t"}
    other = [*ROWS[:5], (5, "3.25", "red", 1), *ROWS[6:]]
    digests = [
        check(make_csv(header, *rows), name=f"d{number}", **(base | options))[0].digest
        for number, (header, rows, options) in enumerate(
            [
                ("a,b,c,t", ROWS, {}),
                ("a,d,c,t", ROWS, {}),
                ("a,b,c,t", other, {}),
                ("a,b,c,t", ROWS, {"drop": ["a"]}),
                ("a,b,c,t", ROWS, {"standardize": False}),
            ]
        )
    ]
    assert len(set(digests)) == 5
    assert check(make_csv("a,b,c,t", *reversed(ROWS)), name="turned", **base)[0].digest == digests[0]


# === Targets ===


def test_whole_numbers_are_classes_and_with_a_task_amounts(make_csv: Build, check: Check) -> None:
    rows = [(index * 0.5, 3 + index % 3) for index in range(90)]
    assert check(make_csv("x,quality", *rows), name="a", target="quality")[0].classes == ["3", "4", "5"]
    info = check(make_csv("x,quality", *rows), name="b", target="quality", task="regression")[0]
    assert (info.task, info.classes, info.targets) == ("regression", None, 1)


def test_floats_are_amounts_and_texts_classes(make_csv: Build, check: Check) -> None:
    assert check(make_csv("x,y", *[(i, i / 4 + 0.1) for i in range(40)]), name="a")[0].task == "regression"
    info = check(make_csv("x,label", *[(i, ["no", " yes"][i % 2]) for i in range(40)]), name="b")[0]
    assert (info.task, info.classes) == ("binary", ["no", "yes"])


def test_many_different_whole_numbers_are_not_guessed_at(make_csv: Build, check: Check) -> None:
    path = make_csv("x,price", *[(index, 100 + index % 60) for index in range(400)])
    with pytest.raises(DataError, match=r"60 different whole numbers.*Set task"):
        check(path, target="price")
    assert check(path, target="price", task="regression")[0].task == "regression"


def test_several_targets_are_predicted_together(make_csv: Build, check: Check) -> None:
    rows = [(index, index * 2.5, index * -1.0) for index in range(40)]
    info, _, folder = check(make_csv("x,up,down", *rows), target=["up", "down"])
    assert (info.task, info.targets, info.features) == ("regression", 2, ["x"])
    split = open_dataset(folder).split("train")
    first = split.raw(0)["x"].item()
    assert split.labels[0].tolist() == [first * 2.5, -first]


# === Columns ===


def test_columns_may_be_chosen_dropped_and_called_categories(make_csv: Build, check: Check) -> None:
    path = make_csv("id,zip,flag,target", *[(i, 8000 + i % 3, ["True", "False"][i % 2], i % 2) for i in range(60)])
    assert check(path, name="a", drop=["id"])[0].features == ["zip", "flag=False", "flag=True"]
    info = check(path, name="b", columns=["zip", "id"], categorical=["zip"])[0]
    assert info.features == ["id", "zip=8000", "zip=8001", "zip=8002"]


def test_texts_of_which_every_row_has_its_own_are_left_out(make_csv: Build, check: Check) -> None:
    path = make_csv("name,x,target", *[(f"person {i}", i, i % 2) for i in range(150)])
    info = check(path, name="a")[0]
    assert info.features == ["x"]
    assert "The column 'name' was left out: it has 150 different texts" in info.warnings[0]
    wide = check(path, name="b", categorical=["name"])[0]
    assert 80 < len(wide.features or ()) < 150  # the training split's own


def test_a_column_without_values_is_left_out(make_csv: Build, check: Check) -> None:
    info = check(make_csv("x,nothing,target", *[(i, ["", "NA"][i % 2], i % 2) for i in range(30)]))[0]
    assert info.features == ["x"]
    assert info.warnings == ["The column 'nothing' was left out: it has no values."]


def test_missing_numbers_are_filled_and_flagged(make_csv: Build, check: Check) -> None:
    info, _, folder = check(make_csv("x,target", *[("NaN" if i % 4 == 0 else i % 10, i % 2) for i in range(80)]))
    assert info.features == ["x", "x is missing"]
    split = open_dataset(folder).split("train")
    fit = json.loads((folder / "table.json").read_text())["encoding"]["numbers"][0]
    given = [split.raw(i)["x"].item() for i in range(len(split))]
    assert fit["median"] == np.median([value for value in given if not np.isnan(value)])
    filled = np.array([fit["median"] if np.isnan(value) else value for value in given])
    expected = np.stack([(filled - filled.mean()) / filled.std(), np.isnan(given)], axis=1)
    np.testing.assert_allclose([split.example(i) for i in range(len(split))], expected, atol=1e-6)


# === Parquet ===


def test_parquet_columns_keep_their_types(make_parquet: Build, check: Check) -> None:
    count = 60
    columns: dict[str, Any] = {
        "amount": [None if i == 3 else i / 2 for i in range(count)],
        "many": np.arange(count, dtype=np.int64),
        "yes": [i % 3 == 0 for i in range(count)],
        "name": [["a", "b", None][i % 3] for i in range(count)],
        "digits": [str(i % 2) for i in range(count)],
        "day": [dt.date(2020, 1, 1)] * count,
        "label": [["cat", "dog"][i % 2] for i in range(count)],
    }
    info, _, _ = check(make_parquet(columns))
    assert {column.name: column.type for column in info.columns} == {
        "amount": "number",
        "many": "number",
        "yes": "category",
        "name": "category",
        "digits": "number",
    }
    assert info.classes == ["cat", "dog"]
    assert "'day' (date32[day])" in info.warnings[0]


def test_csv_and_parquet_of_one_table_are_one_dataset(make_csv: Build, make_parquet: Build, check: Check) -> None:
    csv = check(make_csv("id,size,colour,target", *ROWS), name="csv")[0]
    names = ("id", "size", "colour", "target")
    columns = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["size"] = [float(value) for value in columns["size"]]
    assert check(make_parquet(columns), name="parquet")[0].digest == csv.digest


def test_real_wines_are_read(shared_data: Path, check: Check) -> None:
    info, _, folder = check(shared_data / "wine_quality.csv", target="quality")
    assert (info.task, info.classes) == ("single_label", ["3", "4", "5", "6", "7", "8", "9"])
    assert len(info.features or ()) == 13
    assert sum(split.examples for split in info.splits.values()) == 6497
    assert info.duplicates_across_splits == 0
    stored = [tuple(row.values()) for split in rows_of(folder).values() for row, _ in split]
    assert len(set(stored)) == 6497 - 1177  # so many copies are in the file
