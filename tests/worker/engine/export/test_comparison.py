"""When an export agrees with `model.keras`, and when it does not."""

import numpy as np
import pytest

from app.domain.errors import PlatformError

pytestmark = pytest.mark.tensorflow

CLASSES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.51, 0.49]], "float32")
LABELS = np.array([0, 1, 0, 0, 1], "int32")
NUMBERS = np.array([[10.0], [20.0], [30.0], [40.0]], "float32")


def compare(wanted: str, expected: np.ndarray, received: np.ndarray, *, task: str = "single_label") -> object:
    from worker.engine.export.comparison import compare
    from worker.engine.objective import Objective

    labels = LABELS if task != "regression" else expected
    return compare(wanted, expected, received, labels=labels, objective=Objective(task))


def test_float_formats_may_differ_by_a_thousandth() -> None:
    found = compare("onnx", CLASSES, CLASSES + np.float32(0.0009))
    assert found.difference == pytest.approx(0.0009, rel=1e-3)
    assert (found.examples, found.tolerance, found.agreement) == (5, 1e-3, 1.0)
    assert found.accuracy == found.keras_accuracy == 0.6
    with pytest.raises(PlatformError, match=r"by up to 0\.0011; expected at most 0\.001"):
        compare("onnx", CLASSES, CLASSES + np.float32(0.0011))


def test_large_predictions_are_compared_relative_to_the_largest() -> None:
    assert compare("litert", NUMBERS, NUMBERS + np.float32(0.03), task="regression").tolerance == pytest.approx(0.04)
    with pytest.raises(PlatformError, match=r"expected at most 0\.04"):
        compare("litert", NUMBERS, NUMBERS + np.float32(0.05), task="regression")


def test_8_bits_are_judged_by_the_classes_that_they_name() -> None:
    near = np.array([[0.8, 0.2], [0.3, 0.7], [0.7, 0.3], [0.4, 0.6], [0.48, 0.52]], "float32")
    found = compare("litert_int8", CLASSES, near)
    assert (found.agreement, found.tolerance, found.mean_difference) == (0.8, None, None)
    assert (found.accuracy, found.keras_accuracy) == (0.8, 0.6)
    assert found.difference == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(PlatformError, match="in class: 20% agree; expected at least 80%"):
        compare("litert_int8", CLASSES, near[:, ::-1])


def test_8_bits_of_a_regression_are_judged_by_its_spread() -> None:
    # The standard deviation of 10, 20, 30, 40 is the root of 125.
    found = compare("litert_int8", NUMBERS, NUMBERS + np.float32(1), task="regression")
    assert found.mean_difference == pytest.approx(1 / np.sqrt(125), rel=1e-4)
    assert found.agreement is None
    with pytest.raises(PlatformError, match="standard deviations"):
        compare("litert_int8", NUMBERS, NUMBERS + np.float32(1.2), task="regression")


@pytest.mark.parametrize("wanted", ["onnx", "litert_int8"])
@pytest.mark.parametrize("task", ["single_label", "regression"])
def test_what_is_no_number_never_agrees(wanted: str, task: str) -> None:
    expected = CLASSES if task == "single_label" else NUMBERS
    broken = expected.copy()
    broken[0, 0] = np.nan
    with pytest.raises(PlatformError, match="not published"):
        compare(wanted, expected, broken, task=task)


def test_another_shape_never_agrees() -> None:
    with pytest.raises(PlatformError, match=r"shape \(5, 1\), model.keras of \(5, 2\)"):
        compare("onnx", CLASSES, CLASSES[:, :1])
