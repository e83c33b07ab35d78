"""Classes and splits are told from the paths of the images."""

from collections.abc import Sequence
from typing import Any

import pytest

from app.domain.dataset import DatasetOptions, SplitName
from app.domain.errors import DataError
from worker.engine.data.found import Labels
from worker.engine.data.layout import read_layout


def layout(
    *paths: str, folders: Sequence[str] = (), **options: Any
) -> tuple[list[SplitName | None], list[str], Labels]:
    parts = [tuple(path.split("/")) for path in paths]
    all_folders = {path[:-1] for path in parts} | {tuple(folder.split("/")) for folder in folders}
    brought, labels = read_layout(parts, all_folders, DatasetOptions(**options))
    assert labels.classes is not None
    return brought, [labels.classes[value] for value in labels.values], labels


@pytest.mark.parametrize("wrapping", ["", "photos/"])
def test_class_folders_are_the_classes(wrapping: str) -> None:
    brought, names, labels = layout(*(wrapping + path for path in ("dog/1.png", "cat/1.png", "cat/more/2.png")))
    assert names == ["dog", "cat", "cat"]
    assert brought == [None, None, None]
    assert labels.classes == ["cat", "dog"]
    assert labels.task == "binary"


@pytest.mark.parametrize("wrapping", ["", "photos/"])
def test_split_folders_on_top_are_the_splits(wrapping: str) -> None:
    paths = ("Train/cat/1.png", "Train/dog/1.png", "val/cat/2.png", "test/dog/3.png")
    brought, names, _ = layout(*(wrapping + path for path in paths))
    assert brought == ["train", "train", "validation", "test"]
    assert names == ["cat", "dog", "cat", "dog"]


def test_classes_may_be_called_like_splits() -> None:
    brought, names, _ = layout("train/1.png", "test/1.png")
    assert names == ["train", "test"]
    assert brought == [None, None]


def test_a_lone_train_folder_is_a_split_and_no_wrapping() -> None:
    brought, names, _ = layout("train/cat/1.png", "train/dog/1.png")
    assert brought == ["train", "train"]
    assert names == ["cat", "dog"]


def test_class_names_give_the_order() -> None:
    _, names, labels = layout("cat/1.png", "dog/1.png", class_names=["dog", "cat"])
    assert labels.values.tolist() == [1, 0]
    assert names == ["cat", "dog"]


def test_two_classes_may_be_single_label_if_asked() -> None:
    assert layout("cat/1.png", "dog/1.png", task="single_label")[2].task == "single_label"
    assert layout("a/1.png", "b/1.png", "c/1.png")[2].task == "single_label"


@pytest.mark.parametrize(
    ("paths", "folders", "options", "says"),
    [
        (["cat/1.png", "cat/2.png"], [], {}, "only one class, 'cat'"),
        (["cat/1.png", "dog/1.png", "stray.png"], [], {}, r"'stray\.png' stands outside any class folder"),
        (["cat/1.png", "dog/1.png"], ["bird"], {}, "class folder 'bird' holds no readable image"),
        (["top/cat/1.png", "top/dog/1.png"], ["top/bird"], {}, "class folder 'bird'"),
        (["train/cat/1.png", "train/dog/1.png", "test/dog/1.png"], ["test/bird"], {}, "class folder 'bird'"),
        (["train/cat/1.png", "test/cat/1.png", "extra/cat/1.png"], [], {}, "'extra' beside them"),
        (["train/cat/1.png", "train/dog/1.png", "test/1.png"], [], {}, r"'test/1\.png' stands in a split's folder"),
        (["test/cat/1.png", "val/dog/1.png"], [], {}, "no train folder"),
        (["cat/1.png", "dog/1.png"], [], {"class_names": ["cat", "bird"]}, "must name the class folders"),
        (["cat/1.png", "dog/1.png"], [], {"task": "regression"}, "'regression' needs numbers"),
        (["a/1.png", "b/1.png", "c/1.png"], [], {"task": "binary"}, "exactly two classes; this dataset has 3"),
    ],
)
def test_what_has_no_clear_classes_is_refused(
    paths: list[str], folders: list[str], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        layout(*paths, folders=folders, **options)
