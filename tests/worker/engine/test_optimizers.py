"""Every optimizer and every option reaches Keras."""

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

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
