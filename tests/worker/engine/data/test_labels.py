"""What labels mean, told from their type, shape and values."""

from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetOptions
from app.domain.errors import DataError
from worker.engine.data.found import Labels
from worker.engine.data.labels import read_labels


def read(y: Any, **options: Any) -> Labels:
    return read_labels(np.asarray(y), DatasetOptions(**options))


@pytest.mark.parametrize(
    ("y", "classes", "values"),
    [
        ([3, 7, 7, 3], ["3", "7"], [0, 1, 1, 0]),
        ([[3], [7], [7], [3]], ["3", "7"], [0, 1, 1, 0]),
        ([-1.0, 1.0, 1.0, -1.0], ["-1", "1"], [0, 1, 1, 0]),
        ([True, False, True, False], ["False", "True"], [1, 0, 1, 0]),
        (["no", "yes", "no", "yes"], ["no", "yes"], [0, 1, 0, 1]),
        (np.array([b"no", b"yes", b"no", b"yes"]), ["no", "yes"], [0, 1, 0, 1]),
        ([10, 9, 10, 9], ["9", "10"], [1, 0, 1, 0]),
    ],
)
def test_two_values_are_two_classes(y: Any, classes: list[str], values: list[int]) -> None:
    labels = read(y)
    assert (labels.task, labels.classes, labels.values.tolist()) == ("binary", classes, values)
    assert labels.values.dtype == np.int32


def test_more_values_are_one_label_among_many() -> None:
    assert read([0, 1, 2] * 3).task == "single_label"


def test_one_hot_rows_are_classes_and_that_is_said() -> None:
    labels = read(np.eye(3, dtype=np.float32)[[2, 0, 1, 2]])
    assert labels.values.tolist() == [2, 0, 1, 2]
    assert labels.classes == ["0", "1", "2"]
    assert "taken as 3 classes" in labels.warnings[0]
    assert labels.targets == 1


def test_other_floats_are_numbers_to_predict() -> None:
    one, two = read([0.5, 1.0, 2.0]), read([[0.5, 1.0], [0.1, 0.2]])
    assert (one.task, one.classes, one.values.shape, one.targets) == ("regression", None, (3, 1), 1)
    assert (two.values.shape, two.values.dtype.name, two.targets) == ((2, 2), "float32", 2)


def test_whole_numbers_are_numbers_to_predict_if_asked() -> None:
    assert read([3, 4, 5, 3], task="regression").values.tolist() == [[3.0], [4.0], [5.0], [3.0]]
    assert read([[1, 2], [3, 4]], task="regression").targets == 2


def test_class_names_say_what_the_numbers_mean() -> None:
    labels = read([1, 0, 1, 0], class_names=["sandal", "shirt"])
    assert (labels.classes, labels.values.tolist()) == (["sandal", "shirt"], [1, 0, 1, 0])
    assert read(["b", "a"], class_names=["b", "a"]).values.tolist() == [0, 1]
    assert read(np.array([1, 0], np.uint8), class_names=["b", "a"]).values.tolist() == [1, 0]
    assert read([1.0, 0.0], class_names=["b", "a"]).values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("y", "options", "says"),
    [
        ([0, 1, 2, 0], {"class_names": ["a", "b"]}, r"Label 2 \(example 2\).*2 names, so labels are 0 to 1"),
        ([0, -1, 1, 0], {"class_names": ["a", "b"]}, r"Label -1 \(example 1\)"),
        (["a", "c", "b"], {"class_names": ["a", "b"]}, r"Label c \(example 1\).*class_names are a, b"),
        ([0, 1, 0, 1], {"class_names": ["a", "b", "c"]}, "class 'c' has no examples"),
        (np.eye(3)[[0, 1, 0]], {}, "class '2' has no examples"),
        (np.eye(3)[[0, 1, 2]], {"class_names": ["a", "b"]}, "2 names; the labels have 3 columns"),
        ([5, 5, 5], {}, "only one class, '5'"),
        (list(range(10)), {}, "10 different values in 10 examples.*'regression'"),
        ([0.5, 1.5], {"task": "binary"}, "must be classes"),
        ([0.5, 1.5], {"class_names": ["a", "b"]}, "must be classes"),
        ([0, 1, 2] * 2, {"task": "binary"}, "exactly two classes; this dataset has 3"),
        (["a", "b"], {"task": "regression"}, "strings such as 'a'"),
        ([[2, 1], [0, 1]], {}, "nor 0 and 1 alone for several labels"),
        ([[1, 1], [0, 1]], {"task": "single_label"}, "must be classes"),
        ([[1, 0], [0, 0]], {}, "No example has the label '1'"),
        ([[1, 1], [0, 1]], {"class_names": ["a", "b", "c"]}, "3 names; the labels have 2 columns"),
        ([[0.5, 1], [0, 1]], {"task": "multi_label"}, "0 or 1 in each column"),
        ([0, 1, 0, 1], {"task": "multi_label"}, r"shape \(n, k\)"),
        ([0.5, float("nan"), float("inf")], {}, "2 labels are NaN or infinite, the first at index 1"),
        ([1e300, 0.5], {}, "fit in float32"),
        (np.zeros((2, 2, 2)), {}, r"shape \(n,\) or \(n, k\)"),
        (np.array(["2020-01-01"], "datetime64[D]"), {}, "datetime64"),
        ([1j, 2j], {}, "complex128"),
    ],
)
def test_labels_without_a_clear_meaning_are_refused(y: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(y, **options)


@pytest.mark.parametrize(
    ("y", "options"),
    [
        (np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]]), {}),
        (np.array([[True, True, False], [False, False, False], [False, True, True]]), {}),
        (np.array([[1.0, 1, 0], [0, 0, 0], [0, 1, 1]]), {"task": "multi_label"}),
    ],
)
def test_a_table_of_zeros_and_ones_means_several_labels_at_once(y: np.ndarray, options: dict[str, Any]) -> None:
    labels = read_labels(y, DatasetOptions(**options, class_names=["a", "b", "c"]))
    assert (labels.task, labels.classes, labels.targets) == ("multi_label", ["a", "b", "c"], 1)
    assert labels.values.dtype == np.float32
    assert labels.values.tolist() == y.astype(float).tolist()


def test_one_label_each_may_be_meant_as_several_if_that_is_said() -> None:
    assert read_labels(np.eye(3, dtype=int), DatasetOptions()).task == "single_label"
    assert read_labels(np.eye(3, dtype=int), DatasetOptions(task="multi_label")).task == "multi_label"


def test_zeros_and_ones_are_numbers_if_that_is_said_or_if_they_are_floats() -> None:
    y = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    assert read_labels(y, DatasetOptions(task="regression")).task == "regression"
    assert read_labels(y.astype(float), DatasetOptions()).task == "regression"
