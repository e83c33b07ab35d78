"""Figures of the test split, against hand-computed values."""

import math

import numpy as np
import pytest

from worker.engine import evaluate


def wilson_by_hand(successes: int, trials: int) -> tuple[float, float]:
    """Wilson (1927), with the 97.5 % quantile of the normal distribution."""
    z, share = 1.959963984540054, successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return centre - half, centre + half


@pytest.mark.parametrize(("successes", "trials"), [(9, 10), (46, 46), (0, 7), (1970, 2000)])
def test_accuracy_has_wilsons_interval(successes: int, trials: int) -> None:
    found = evaluate.wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx(wilson_by_hand(successes, trials), abs=1e-9)
    assert found.value == successes / trials
    assert found.method == "wilson"


def test_classification_counts_true_classes_in_rows_and_predicted_ones_in_columns() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    found = evaluate.classification(labels, predicted, names=["a", "b", "c"], loss=0.5)
    assert found.confusion_matrix == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found.accuracy is not None
    assert found.accuracy.value == 4 / 6
    assert (found.examples, found.loss) == (6, 0.5)


def test_per_class_figures_are_precision_recall_f1_and_support() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    found = evaluate.classification(labels, predicted, names=["a", "b", "c"], loss=0.5)
    assert found.per_class == {
        "a": pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "examples": 3}),
        "b": pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "examples": 2}),
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 1},
    }


def test_a_class_that_the_test_split_lacks_still_has_its_row() -> None:
    found = evaluate.classification(np.array([0, 1]), np.array([0, 1]), names=["a", "b", "c"], loss=0.1)
    assert found.confusion_matrix == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_regression_error_is_in_target_units_and_averaged_over_targets() -> None:
    labels = np.array([[100.0, 1.0], [200.0, 2.0]], "float32")
    outputs = np.array([[110.0, 1.0], [200.0, 6.0]], "float32")
    found = evaluate.regression(labels, outputs, loss=29.0, seed=1)
    assert found.mean_absolute_error is not None
    assert found.mean_absolute_error.value == pytest.approx((5.0 + 2.0) / 2)
    assert found.accuracy is None


def test_bootstrap_interval_of_many_values_is_the_normal_approximation() -> None:
    values = np.abs(np.random.default_rng(3).normal(size=4000))
    found = evaluate.bootstrap(values, seed=1)
    error = values.std() / math.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error
    )
    assert found.method == "bootstrap"


def test_bootstrap_interval_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(3).normal(size=50)
    assert evaluate.bootstrap(values, seed=1) == evaluate.bootstrap(values, seed=1)
    assert evaluate.bootstrap(values, seed=1) != evaluate.bootstrap(values, seed=2)


@pytest.mark.parametrize("values", [np.array([2.5]), np.full(10, 2.5)], ids=["one", "all equal"])
def test_values_without_spread_are_their_own_interval(values: np.ndarray) -> None:
    found = evaluate.bootstrap(values, seed=1)
    assert (found.low, found.value, found.high) == (2.5, 2.5, 2.5)


def test_several_labels_are_judged_together_and_one_by_one() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], "float32")
    predicted = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
    found = evaluate.multi_label(labels, predicted, names=["dog", "cat"], loss=0.5, seed=0)
    assert found.exact_match is not None
    assert found.label_accuracy is not None
    assert (found.exact_match.value, found.exact_match.method) == (0.5, "wilson")
    assert (found.label_accuracy.value, found.label_accuracy.method) == (0.75, "bootstrap")
    assert 0.5 <= found.label_accuracy.low < 0.75 < found.label_accuracy.high <= 1.0
    assert (found.accuracy, found.confusion_matrix) == (None, None)
    assert found.per_class == {
        "dog": {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "examples": 2},
        "cat": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "examples": 2},
    }
