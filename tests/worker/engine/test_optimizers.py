"""Every optimizer and every option reaches Keras."""

from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from app.domain.learning_rates import LearningRateSchedule, rate_at, segments
from app.domain.optimizers import Optimizer
from worker.engine.optimizers import build_optimizer

pytestmark = pytest.mark.tensorflow

OTHER_VALUES: dict[str, Any] = {
    "learning_rate": 0.25,
    "weight_decay": 0.125,
    "clipnorm": 2.0,
    "momentum": 0.5,
    "nesterov": True,
    "beta_1": 0.75,
    "beta_2": 0.875,
    "epsilon": 0.001,
    "amsgrad": True,
    "rho": 0.5,
    "centered": True,
    "initial_accumulator_value": 0.5,
}
KINDS = [member.model_fields["type"].annotation.__args__[0] for member in get_args(get_args(Optimizer)[0])]


def parsed(**options: Any) -> Optimizer:
    return TypeAdapter(Optimizer).validate_python(options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_arrives(kind: str) -> None:
    fields = type(parsed(type=kind, learning_rate=0.1)).model_fields.keys() - {"type", "clipvalue", "global_clipnorm"}
    wanted = {name: OTHER_VALUES[name] for name in fields}
    optimizer = build_optimizer(parsed(type=kind, **wanted))
    assert type(optimizer).__name__.lower() == kind
    received = optimizer.get_config()
    assert {name: pytest.approx(received[name]) for name in wanted} == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_left_out_options_are_those_of_keras(kind: str) -> None:
    import keras

    theirs = keras.optimizers.get({"class_name": kind, "config": {"learning_rate": 0.1}}).get_config()
    ours = build_optimizer(parsed(type=kind, learning_rate=0.1)).get_config()
    assert {name: value for name, value in ours.items() if theirs[name] != value and name != "name"} == {}


@pytest.mark.parametrize("clipping", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_each_clipping_arrives(clipping: str) -> None:
    optimizer = build_optimizer(parsed(type="sgd", learning_rate=0.1, **{clipping: 0.5}))
    assert getattr(optimizer, clipping) == 0.5


def test_adamw_without_weight_decay_decays_nothing() -> None:
    optimizer = build_optimizer(parsed(type="adamw", learning_rate=0.1, weight_decay=None))
    assert optimizer.weight_decay == 0.0


# === Rates ===


def steps(optimizer: Any, variable: Any, count: int) -> list[float]:
    """The rates that some steps with a gradient of ones were made at, each traced as in training."""
    import tensorflow as tf

    optimizer.build([variable])

    @tf.function
    def step() -> None:
        optimizer.apply([tf.ones_like(variable)], [variable])

    rates = []
    for _ in range(count):
        step()
        rates.append(float(optimizer.learning_rate))
    return rates


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "constant"},
        {"type": "constant", "warmup_epochs": 0.5},
        {"type": "cosine", "end_factor": 0.1, "warmup_epochs": 1},
        {"type": "one_cycle"},
        {"type": "one_cycle", "warmup_epochs": 2.97},
        {"type": "exponential", "warmup_epochs": 3},
    ],
)
def test_a_traced_step_is_made_at_the_rate_of_its_schedule(schedule: dict[str, Any]) -> None:
    import keras

    parsed_schedule = TypeAdapter(LearningRateSchedule).validate_python(schedule)
    rates = segments(parsed_schedule, learning_rate=0.5, epochs=3, steps_per_epoch=7)
    variable = keras.Variable([0.0])
    found = steps(build_optimizer(parsed(type="sgd", learning_rate=0.5), rates=rates), variable, 23)
    expected = [rate_at(rates, step) for step in range(23)]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert float(variable[0]) == pytest.approx(-sum(expected), rel=1e-5)  # gradients of one: the rates add up


def test_a_schedule_goes_on_where_the_restored_variables_say() -> None:
    import keras

    rates = segments(
        TypeAdapter(LearningRateSchedule).validate_python({"type": "one_cycle"}),
        learning_rate=0.5, epochs=2, steps_per_epoch=6,
    )  # fmt: skip
    options, variable = parsed(type="adam", learning_rate=0.5), keras.Variable([0.0])
    whole = build_optimizer(options, rates=rates)
    expected = steps(whole, variable, 5)
    saved, weights = [np.asarray(value) for value in whole.variables], np.asarray(variable)
    rest = steps(whole, variable, 4)
    after = np.asarray(variable)

    variable.assign(weights)
    resumed = build_optimizer(options, rates=rates)
    resumed.build([variable])
    for value, stored in zip(resumed.variables, saved, strict=True):
        value.assign(stored)
    assert steps(resumed, variable, 4) == rest
    assert rest[0] != expected[-1]
    np.testing.assert_array_equal(np.asarray(variable), after)
