"""How an export's predictions compare with those of `model.keras`, and whether that will do.

float formats   the largest difference is at most 1e-3, relative to the largest prediction if that is above 1
8 bits          the same class for at least 80 % of the examples; regression: a mean difference of at most a tenth
                of the predictions' standard deviation

8 bits cannot give the same numbers; what they must give is the same answers. The bound only tells a converted model
from a broken one: the figures themselves stand in the report.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.domain.errors import PlatformError
from app.domain.exports import ExportFormat
from worker.engine.objective import Objective

TOLERANCE = 1e-3
"""Convolutions differ by about 1e-5 between runtimes; a wrong preprocessing shows in the first digit."""
MIN_AGREEMENT = 0.8
MAX_MEAN_DIFFERENCE = 0.1

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """Figures as in `app.domain.exports.Export`."""

    examples: int
    difference: float
    tolerance: float | None = None
    agreement: float | None = None
    mean_difference: float | None = None
    accuracy: float | None = None
    keras_accuracy: float | None = None

    def figures(self) -> dict[str, float | None]:
        """By name."""
        return asdict(self)


def largest(expected: Array, received: Array) -> float:
    """The largest difference; NaN if a prediction is none."""
    return float(np.max(np.abs(expected.astype("float64") - received.astype("float64"))))


def tolerance(expected: Array) -> float:
    """The largest difference that float formats may have."""
    return TOLERANCE * max(1.0, float(np.max(np.abs(expected))))


def compare(
    wanted: ExportFormat, expected: Array, received: Array, *, labels: Array, objective: Objective
) -> Comparison:
    """Compare predictions `(n, outputs)`; `labels` as in a split. Raises `PlatformError` where they do not agree."""
    if expected.shape != received.shape:
        message = f"It gives predictions of the shape {received.shape}, model.keras of {expected.shape}."
        raise PlatformError(message, code="export_check_failed")
    comparison = _measured(wanted, expected, received, labels=labels, objective=objective)
    disagreement = _disagreement(comparison)
    if disagreement:
        message = (
            f"Its predictions for {len(expected)} test examples differ from those of model.keras {disagreement}. "
            "The file is not published."
        )
        raise PlatformError(message, code="export_check_failed")
    return comparison


def _measured(
    wanted: ExportFormat, expected: Array, received: Array, *, labels: Array, objective: Objective
) -> Comparison:
    in_8_bits = wanted == "litert_int8"
    classes = objective.task != "regression"
    return Comparison(
        examples=len(expected),
        difference=largest(expected, received),
        tolerance=None if in_8_bits else tolerance(expected),
        mean_difference=_in_deviations(expected, received) if in_8_bits and not classes else None,
        **(_classes(expected, received, labels, objective) if classes else {}),
    )


def _disagreement(found: Comparison) -> str | None:
    """How they differ by more than is allowed, in words; a comparison with NaN is never within it."""
    if found.tolerance is not None:
        within = found.difference <= found.tolerance
        return None if within else f"by up to {found.difference:.3g}; expected at most {found.tolerance:.3g}"
    if found.agreement is not None:
        within = found.agreement >= MIN_AGREEMENT and found.difference < math.inf
        return None if within else f"in class: {found.agreement:.0%} agree; expected at least {MIN_AGREEMENT:.0%}"
    mean = found.mean_difference
    assert mean is not None, "a regression in 8 bits has nothing else"
    return (
        None
        if mean <= MAX_MEAN_DIFFERENCE
        else f"by {mean:.3g} standard deviations on average; expected at most {MAX_MEAN_DIFFERENCE:g}"
    )


def _classes(expected: Array, received: Array, labels: Array, objective: Objective) -> dict[str, float]:
    ours, theirs = (np.asarray(objective.classes(outputs)) for outputs in (received, expected))
    return {
        "agreement": float(np.mean(ours == theirs)),
        "accuracy": float(np.mean(ours == labels)),
        "keras_accuracy": float(np.mean(theirs == labels)),
    }


def _in_deviations(expected: Array, received: Array) -> float:
    """The mean difference over the standard deviation of each output; over 1 where an output never changes."""
    deviations = np.std(expected.astype("float64"), axis=0)
    differences = np.abs(expected.astype("float64") - received.astype("float64"))
    return float(np.mean(differences / np.where(deviations > 0, deviations, 1.0)))
