"""Rates over the steps of a phase and over the layers of a backbone, against numbers worked out by hand."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.learning_rates import LearningRateSchedule, layer_factors, rate_at, segments
from app.domain.model import LayerRow
from app.domain.phases import Phase


def rates(schedule: dict[str, Any], *, epochs: int = 2, steps: int = 4, rate: float = 0.8) -> list[float]:
    """All rates of a phase, and the one behind its last step."""
    parsed = TypeAdapter(LearningRateSchedule).validate_python(schedule)
    found = segments(parsed, learning_rate=rate, epochs=epochs, steps_per_epoch=steps)
    return [rate_at(found, step) for step in range(epochs * steps + 1)]


ROOT = 2**0.5 / 2
"""cos 45°."""


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"type": "constant"}, [0.8] * 9),
        # Three steps of warm-up: a quarter, a half, three quarters of the rate; the fourth step has all of it.
        ({"type": "constant", "warmup_epochs": 0.75}, [0.2, 0.4, 0.6] + [0.8] * 6),
        # cos of 0°, 22.5°, 45°, …: (1 + cos) / 2 of 0.8.
        (
            {"type": "cosine"},
            [0.8, 0.769552, 0.4 + 0.4 * ROOT, 0.553073, 0.4, 0.246927, 0.4 - 0.4 * ROOT, 0.030448, 0.0],
        ),
        # Four steps of warm-up (fifths), then 0°, 45°, 90°, 135° from 0.8 to 0.2.
        (
            {"type": "cosine", "warmup_epochs": 1, "end_factor": 0.25},
            [0.16, 0.32, 0.48, 0.64, 0.8, 0.5 + 0.3 * ROOT, 0.5, 0.5 - 0.3 * ROOT, 0.2],
        ),
        # Rises for two of eight steps from 0.08, falls for six to 0.008; steps of 30° on the way down.
        (
            {"type": "one_cycle", "start_factor": 0.1, "end_factor": 0.01},
            [0.08, 0.44, 0.8, 0.746946, 0.602, 0.404, 0.206, 0.061054, 0.008],
        ),
        # A hundredth after eight steps: each step the eighth root of it.
        ({"type": "exponential"}, [0.8 * 0.01 ** (step / 8) for step in range(9)]),
        # All eight steps are warm-up: ninths of the rate.
        ({"type": "exponential", "warmup_epochs": 2}, [0.8 * step / 9 for step in range(1, 10)]),
    ],
)  # fmt: skip
def test_a_schedule_gives_the_rates_worked_out_by_hand(schedule: dict[str, Any], expected: list[float]) -> None:
    assert rates(schedule) == pytest.approx(expected, abs=1e-6)


def test_one_cycle_rises_for_a_quarter_of_the_phase_to_25_times_where_it_started() -> None:
    found = rates({"type": "one_cycle"}, epochs=10, steps=10, rate=1.0)
    assert (found[0], found[25], found[100]) == pytest.approx((0.04, 1.0, 1e-5))
    assert max(found) == found[25]


def test_fractional_warm_up_is_rounded_to_steps() -> None:
    assert rates({"type": "constant", "warmup_epochs": 0.1}, steps=4) == [0.8] * 9
    assert rates({"type": "constant", "warmup_epochs": 0.1}, steps=10, epochs=1)[:2] == pytest.approx([0.4, 0.8])


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "constant", "warmup_epochs": 3},
        {"type": "one_cycle", "warmup_epochs": 2.5},
        {"type": "cosine", "end_factor": -0.1},
        {"type": "exponential", "end_factor": 0},
        {"type": "one_cycle", "start_factor": 0},
        {"type": "constant", "end_factor": 0.1},
        {"type": "linear"},
        {},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Phase.model_validate({"epochs": 2, "learning_rate_schedule": schedule})
    assert {error["loc"][0] for error in caught.value.errors()} == {"learning_rate_schedule"}


def test_a_phase_keeps_its_rate_unless_told_otherwise() -> None:
    assert Phase(epochs=1).learning_rate_schedule.type == "constant"
    assert Phase(epochs=1).learning_rate_schedule.warmup_epochs == 0


def row(index: int, path: str, *, weights: bool = True) -> LayerRow:
    return LayerRow(
        index=index, path=path, class_name="Dense", output_shape=[None, 3], parameters=12 * weights,
        has_weights=weights, legal_cut=True,
    )  # fmt: skip


def test_each_layer_further_down_gets_the_factor_once_more_and_only_layers_with_weights_count() -> None:
    rows = [row(0, "first"), row(1, "relu", weights=False), row(2, "inner/dense"), row(3, "top")]
    assert layer_factors(rows, 0.5) == {"top": 0.5, "inner/dense": 0.25, "first": 0.125}
    assert layer_factors(rows, None) == {"top": 1.0, "inner/dense": 1.0, "first": 1.0}
    assert layer_factors([], 0.5) == {}
