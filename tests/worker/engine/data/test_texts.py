"""Texts with labels: found out, kept as they are, put into batches of strings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DataError
from worker.engine.data.preprocess import Preprocess
from worker.engine.data.stored import open_dataset

Build = Callable[..., Path]
Check = Callable[..., Any]

MESSAGES = [(f'"{word} number {index}, früh"', word) for index in range(20) for word in ("ham", "spam")]


def texts_of(folder: Path) -> dict[str, str]:
    """Every text with the name of its class."""
    dataset = open_dataset(folder)
    classes = dataset.info.classes or []
    splits = [dataset.split(name) for name in dataset.info.splits]
    return {
        split.raw(index).item().decode(): classes[split.labels[index]]
        for split in splits
        for index in range(len(split))
    }


def test_columns_called_text_and_label_are_texts(make_csv: Build, check: Check) -> None:
    info, preview, folder = check(make_csv("Text,label,id", *[(*row, 7) for row in MESSAGES]))
    assert (info.kind, info.task, info.classes, info.dtype) == ("text", "binary", ["ham", "spam"], "string")
    assert (info.example_shape, info.value_range, info.features) == ([], None, None)
    assert "'id'" in info.warnings[0]
    assert texts_of(folder) == {text.strip('"'): label for text, label in MESSAGES}
    assert preview[0].text in texts_of(folder)
    assert (preview[0].image_png, preview[0].values, preview[0].row) == (None, None, None)


def test_the_columns_may_be_called_otherwise(make_csv: Build, make_parquet: Build, check: Check) -> None:
    options = {"text": "message", "target": "kind_of"}
    csv = check(make_csv("kind_of,message", *[(label, text) for text, label in MESSAGES]), name="csv", **options)[0]
    columns = {"message": [text.strip('"') for text, _ in MESSAGES], "kind_of": [label for _, label in MESSAGES]}
    assert csv.kind == "text"
    assert check(make_parquet(columns), name="parquet", **options)[0].digest == csv.digest


def test_a_column_called_text_may_belong_to_a_table(make_csv: Build, check: Check) -> None:
    rows = [(index, ["a", "b", f"c{index}"][index % 3], index % 2) for index in range(60)]
    path = make_csv("n,text,label", *rows)
    assert check(path, name="a")[0].kind == "text"
    assert check(path, name="b", kind="table")[0].features[:3] == ["n", "text=a", "text=b"]
    assert check(path, name="c", columns=["n", "text"])[0].kind == "table"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "text"}, "No column is called 'text'. Set text to one of 'x', 'label'"),
        ({"text": "body"}, "no column 'body'"),
        ({"text": "label"}, "holds the texts, so it cannot be the target"),
        ({"text": "x", "drop": ["x"]}, "drop is for tables"),
        ({"text": "x", "target": "y"}, "target names the column 'y'"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    options: dict[str, Any], message: str, make_csv: Build, check: Check
) -> None:
    with pytest.raises(DataError, match=message):
        check(make_csv("x,label", *MESSAGES), **options)


def test_rows_without_a_text_are_named(make_csv: Build, check: Check) -> None:
    with pytest.raises(DataError, match=r"'text' has no text in row 42 \(2 such rows\)"):
        check(make_csv("text,label", *MESSAGES, ("", "ham"), (" ", "spam")))


def test_numbers_are_no_texts(make_parquet: Build, check: Check) -> None:
    with pytest.raises(DataError, match="holds double, not texts"):
        check(make_parquet({"text": [1.5] * 9, "label": ["a", "b", "c"] * 3}), kind="text")


def test_texts_over_the_limit_are_refused(make_csv: Build, check: Check) -> None:
    path = make_csv("text,label", *MESSAGES)
    with pytest.raises(DataError, match=r"more than 900 bytes|at most 900 are read"):
        check(path, max_unpacked_bytes=900)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_batches_hold_the_texts_themselves(shape: tuple[int, ...], make_csv: Build, check: Check) -> None:
    _, _, folder = check(make_csv("text,label", *MESSAGES))
    split = open_dataset(folder).split("train")
    plan = Preprocess(input_shape=shape, input_dtype="string", output_shape=shape, source_dtype="string")
    batches = list(split.batches(8, preprocess=plan))
    assert batches[0][0].shape == (8, *shape)
    assert [text for x, _ in batches for text in x.ravel()] == [split.raw(i).item() for i in range(len(split))]
    assert plan.layers() == []


def test_real_messages_are_read(shared_data: Path, check: Check) -> None:
    info, _, folder = check(shared_data / "sms_spam.csv")
    assert (info.kind, info.classes) == ("text", ["ham", "spam"])
    counts = [split.class_counts or {} for split in info.splits.values()]
    assert (sum(its["ham"] for its in counts), sum(its["spam"] for its in counts)) == (4827, 747)
    assert info.duplicates_across_splits == 0
    assert any("£" in text for text in texts_of(folder))
