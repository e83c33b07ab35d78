"""Every optimizer and every option reaches Keras."""

from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from app.domain.learning_rates import LearningRateSchedule, rate_at, segments
from app.domain.optimizers import Optimizer
from worker.engine.optimizers import build_optimizer, carry

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


# === Parts of the rate ===

STATEFUL: list[dict[str, Any]] = [
    *({"type": kind} for kind in KINDS),
    {"type": "sgd", "momentum": 0.9},
    {"type": "sgd", "momentum": 0.9, "nesterov": True},
    {"type": "adam", "amsgrad": True},
    {"type": "rmsprop", "momentum": 0.9, "centered": True},
    {"type": "adam", "clipnorm": 0.1},
    {"type": "sgd", "global_clipnorm": 0.1},
]


def moved(options: dict[str, Any], factor: float | None, *, start: float = 0.0, count: int = 1) -> np.ndarray:
    """Where a variable of two numbers has gone after some steps with gradients of 3 and -0.2, then half of them."""
    import keras
    import tensorflow as tf

    variable, other = keras.Variable([start, start]), keras.Variable([start])
    optimizer = build_optimizer(
        parsed(learning_rate=0.1, **options), factors=[] if factor is None else [(variable, factor)]
    )
    optimizer.build([variable, other])
    for number in range(count):
        optimizer.apply([tf.constant([3.0, -0.2]) / (1 + number), tf.constant([1.0])], [variable, other])
    return np.asarray(variable)


@pytest.mark.parametrize("options", STATEFUL)
def test_half_the_rate_is_exactly_half_the_update_whatever_the_optimizer(options: dict[str, Any]) -> None:
    whole, half = moved(options, None), moved(options, 0.5)
    assert (whole != 0).all()
    np.testing.assert_array_equal(half * 2, whole)
    np.testing.assert_array_equal(moved(options, 1.0), whole)


@pytest.mark.parametrize("options", STATEFUL)
def test_half_the_rate_stays_half_the_update_in_later_steps(options: dict[str, Any]) -> None:
    options = options | ({"weight_decay": None} if options["type"] == "adamw" else {})  # it pulls at where they are
    np.testing.assert_allclose(moved(options, 0.5, count=4) * 2, moved(options, None, count=4), rtol=1e-6)


def test_parts_of_the_rate_by_hand() -> None:
    """SGD: rate x gradient. Adam's first step: the whole rate for every gradient, up to epsilon."""
    np.testing.assert_allclose(moved({"type": "sgd"}, 0.3), [-0.1 * 0.3 * 3.0, 0.1 * 0.3 * 0.2], rtol=1e-6)
    np.testing.assert_allclose(moved({"type": "adam"}, 0.3), [-0.1 * 0.3, 0.1 * 0.3], rtol=1e-4)


def test_weight_decay_goes_at_the_rate_of_its_layer() -> None:
    """From 2.0: minus rate x decay x 2.0, then minus rate x gradient."""
    decayed = 2.0 - 0.1 * 0.3 * 0.5 * 2.0
    found = moved({"type": "sgd", "weight_decay": 0.5}, 0.3, start=2.0)
    np.testing.assert_allclose(found, [decayed - 0.1 * 0.3 * 3.0, decayed + 0.1 * 0.3 * 0.2], rtol=1e-6)
    whole = 2.0 - 0.1 * 0.5 * 2.0
    found = moved({"type": "sgd", "weight_decay": 0.5}, None, start=2.0)
    np.testing.assert_allclose(found, [whole - 0.1 * 3.0, whole + 0.1 * 0.2], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_is_that_of_keras(kind: str) -> None:
    import keras
    import tensorflow as tf

    ours, theirs = keras.Variable([2.0, -1.0]), keras.Variable([2.0, -1.0])
    classes = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
    classes |= {"rmsprop": keras.optimizers.RMSprop, "nadam": keras.optimizers.Nadam}
    classes |= {"adagrad": keras.optimizers.Adagrad}
    build_optimizer(parsed(type=kind, learning_rate=0.1, weight_decay=0.2)).apply([tf.constant([1.0, 2.0])], [ours])
    classes[kind](learning_rate=0.1, weight_decay=0.2).apply([tf.constant([1.0, 2.0])], [theirs])
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        # Gradients (3, 4) and (5): norms 5 and 5, together the root of 50.
        ({"clipnorm": 1.0}, [[0.6, 0.8], [1.0]]),
        ({"clipvalue": 3.5}, [[3.0, 3.5], [3.5]]),
        ({"global_clipnorm": 1.0}, [[3 / 50**0.5, 4 / 50**0.5], [5 / 50**0.5]]),
        ({"clipnorm": 6.0}, [[3.0, 4.0], [5.0]]),
    ],
)
def test_clipping_by_hand(clipping: dict[str, float], expected: list[list[float]]) -> None:
    import keras
    import tensorflow as tf

    variables = [keras.Variable([0.0, 0.0]), keras.Variable([0.0])]
    optimizer = build_optimizer(parsed(type="sgd", learning_rate=1.0, **clipping))
    optimizer.apply([tf.constant([3.0, 4.0]), tf.constant([5.0])], variables)
    for variable, gradient in zip(variables, expected, strict=True):
        np.testing.assert_allclose(-np.asarray(variable), gradient, rtol=1e-6)


# === Carried state ===


def with_steps(options: dict[str, Any], variables: list[Any], count: int, *, rates: Any = ()) -> Any:
    import tensorflow as tf

    optimizer = build_optimizer(parsed(learning_rate=0.1, **options), rates=rates)
    optimizer.build(variables)
    for number in range(count):
        optimizer.apply([tf.ones_like(variable) * (number + 1.0) for variable in variables], variables)
    return optimizer


@pytest.mark.parametrize("options", STATEFUL)
def test_a_carried_optimizer_goes_on_as_if_nothing_had_happened(options: dict[str, Any]) -> None:
    import keras
    import tensorflow as tf

    straight, stopped = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    whole = with_steps(options, [straight], 3)
    first = with_steps(options, [stopped], 3)
    second = build_optimizer(parsed(learning_rate=0.1, **options))
    second.build([stopped])
    carry(first, second)
    for optimizer, variable in ((whole, straight), (second, stopped)):
        for _ in range(2):
            optimizer.apply([tf.constant([0.5, -3.0])], [variable])
    np.testing.assert_array_equal(np.asarray(straight), np.asarray(stopped))
    assert int(second.iterations) == 5


def test_newly_unfrozen_weights_start_fresh_and_frozen_ones_are_forgotten() -> None:
    import keras

    head, output, below = keras.Variable([1.0]), keras.Variable([1.0]), keras.Variable([[1.0, 2.0]])
    first = with_steps({"type": "adam"}, [head, output], 3)
    second = build_optimizer(parsed(type="adam", learning_rate=0.01))
    second.build([below, output])
    carry(first, second)
    momentum, velocity = (
        [np.asarray(slot) for slot in optimizer_slots] for optimizer_slots in (second._momentums, second._velocities)
    )
    np.testing.assert_array_equal(momentum[0], [[0.0, 0.0]])
    np.testing.assert_array_equal(velocity[0], [[0.0, 0.0]])
    np.testing.assert_array_equal(momentum[1], np.asarray(first._momentums[1]))
    np.testing.assert_array_equal(velocity[1], np.asarray(first._velocities[1]))
    assert velocity[1] > 0
    assert int(second.iterations) == 3
    assert float(second.learning_rate) == pytest.approx(0.01)


def test_the_schedule_of_a_phase_starts_at_its_beginning_though_steps_are_counted_on() -> None:
    import keras

    rates = segments(
        TypeAdapter(LearningRateSchedule).validate_python({"type": "cosine"}),
        learning_rate=0.1, epochs=1, steps_per_epoch=4,
    )  # fmt: skip
    variable = keras.Variable([1.0])
    first = with_steps({"type": "adam"}, [variable], 3, rates=rates)
    second = build_optimizer(parsed(type="adam", learning_rate=0.1), rates=rates)
    second.build([variable])
    carry(first, second)
    assert steps(second, variable, 4) == pytest.approx([rate_at(rates, step) for step in range(4)])
    assert int(second.iterations) == 7
