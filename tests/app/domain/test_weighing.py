"""What examples count, and which datasets know classes that can be weighed."""

from typing import Any

import pytest

from app.domain import weighing
from app.domain.dataset import DatasetInfo, SplitInfo
from app.domain.errors import UserError
from app.domain.spec import Spec


def data(task: str = "single_label", counts: dict[str, int] | None = None) -> DatasetInfo:
    known = {"hen": 6, "duck": 3, "goose": 1} if counts is None else counts
    classes = None if task == "regression" else list(known)
    return DatasetInfo(
        kind="arrays", task=task, example_shape=[4], dtype="float32", value_range=(0, 1), classes=classes, digest="0",
        splits={name: SplitInfo(examples=10, class_counts=known if classes else None) for name in ("train", "test")},
    )  # fmt: skip


def test_balanced_classes_count_the_same_in_sum() -> None:
    weights = weighing.class_weights(Spec(class_weights="balanced"), data())
    assert weights == {"hen": pytest.approx(10 / 18), "duck": pytest.approx(10 / 9), "goose": pytest.approx(10 / 3)}


def test_classes_that_are_not_named_count_one() -> None:
    assert weighing.class_weights(Spec(class_weights={"duck": 0.5}), data()) == {"hen": 1, "duck": 0.5, "goose": 1}
    assert weighing.class_weights(Spec(), data()) is None


@pytest.mark.parametrize(
    ("fields", "task", "code", "word"),
    [
        ({"class_weights": {"duk": 2}}, "single_label", "unknown_class", "'duck'"),
        ({"class_weights": {"hen": 0, "duck": 0, "goose": 0}}, "single_label", "no_weight", "above 0"),
        ({"class_weights": "balanced"}, "regression", "not_for_this_task", "'regression'"),
        ({"class_weights": "balanced"}, "multi_label", "not_for_this_task", "several"),
        ({"label_smoothing": 0.1}, "regression", "not_for_this_task", "'regression'"),
    ],
)
def test_what_a_dataset_cannot_have_is_refused(fields: dict[str, Any], task: str, code: str, word: str) -> None:
    check = weighing.check_smoothing if "label_smoothing" in fields else weighing.class_weights
    spec = Spec.model_validate(fields)
    with pytest.raises(UserError, match=word) as caught:
        check(spec, data(task))
    assert caught.value.work_code == code
    assert caught.value.param == next(iter(fields))
