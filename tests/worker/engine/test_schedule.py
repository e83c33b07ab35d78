"""What a phase freezes: flags for Keras, and the division that the proof goes by."""

from typing import Any

import pytest

from app.domain.errors import UserError
from app.domain.phases import Phase
from worker.engine import schedule

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def network() -> Any:
    """Backbone `first, norm, inner/dense, inner/norm, wrapped`; head `head_norm, output`."""
    import keras
    from keras import layers

    from worker.engine.steps import Network

    inner_inputs = keras.Input((4, 3))
    inner = layers.BatchNormalization(name="norm")(layers.Dense(3, name="dense")(inner_inputs))
    inputs = keras.Input((4, 3))
    tensor = layers.BatchNormalization(name="norm")(layers.Dense(3, name="first")(inputs))
    tensor = keras.Model(inner_inputs, inner, name="inner")(layers.Dropout(0.5, name="drop")(tensor))
    tensor = layers.TimeDistributed(layers.BatchNormalization(name="hidden_norm"), name="wrapped")(tensor)
    backbone = keras.Model(inputs, layers.Flatten(name="flat")(tensor))
    tensor = layers.BatchNormalization(name="head_norm")(backbone.outputs[0])
    model = keras.Model(backbone.inputs[0], layers.Dense(2, name="output")(tensor))
    return Network(model=model, backbone=backbone, head=keras.Model(backbone.outputs[0], model.outputs[0]))


def phase(unfreeze: Any) -> Phase:
    return Phase(name="p", unfreeze=unfreeze, epochs=1)


def trained(network: Any, unfreeze: Any, **options: bool) -> set[str]:
    """Names of the weights that Keras trains in such a phase."""
    selection = schedule.select(network, phase(unfreeze), **options)
    schedule.freeze(network, selection)
    flagged = {id(weight) for weight in network.model.trainable_weights}
    return {name for name, weight in schedule.weights_of(network.model).items() if id(weight) in flagged}


HEAD = {"head_norm/0.gamma", "head_norm/1.beta", "output/0.kernel", "output/1.bias"}
FIRST = {"first/0.kernel", "first/1.bias"}
INNER = {"inner/dense/0.kernel", "inner/dense/1.bias"}
NORMS = {"norm/0.gamma", "norm/1.beta", "inner/norm/0.gamma", "inner/norm/1.beta", "wrapped/0.gamma", "wrapped/1.beta"}


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("none", HEAD),
        ("all", HEAD | FIRST | INNER),
        ({"last": 3}, HEAD | INNER),
        ({"from_layer": "inner"}, HEAD | INNER),
        ({"match": "^first$"}, HEAD | FIRST),
        ({"fraction": 0.6}, HEAD | INNER),
        ({"fraction": 1.0}, HEAD | FIRST | INNER),
    ],
)
def test_the_head_and_the_unfrozen_layers_train_but_no_batch_norm_of_the_backbone(
    network: Any, unfreeze: Any, expected: set[str]
) -> None:
    assert trained(network, unfreeze) == expected


def test_batch_norm_trains_where_the_backbone_has_random_weights(network: Any) -> None:
    assert trained(network, "all", hold_batch_norm=False) == HEAD | FIRST | INNER | NORMS
    assert trained(network, {"last": 1}, hold_batch_norm=False) == HEAD | {"wrapped/0.gamma", "wrapped/1.beta"}


def test_flags_of_an_earlier_phase_do_not_stay(network: Any) -> None:
    trained(network, "all")
    assert trained(network, {"match": "first"}) == HEAD | FIRST
    assert trained(network, "none") == HEAD
    assert trained(network, "all") == HEAD | FIRST | INNER


@pytest.mark.parametrize("unfreeze", ["none", "all", {"match": "first"}])
def test_every_weight_is_frozen_trained_or_a_statistic_of_the_head(network: Any, unfreeze: Any) -> None:
    selection = schedule.select(network, phase(unfreeze))
    every = set(schedule.weights_of(network.model))
    assert selection.frozen.keys() | selection.trained.keys() == every - {
        "head_norm/2.moving_mean",
        "head_norm/3.moving_variance",
    }
    assert not selection.frozen.keys() & selection.trained.keys()
    assert {name for name in every if "norm/" in name and not name.startswith("head_")} <= selection.frozen.keys()


def test_division_agrees_with_keras_flags_whatever_they_were_before(network: Any) -> None:
    network.model.trainable = False
    selection = schedule.select(network, phase({"match": "first"}))
    assert selection.trained.keys() == HEAD | FIRST
    schedule.freeze(network, selection)
    assert {id(weight) for weight in network.model.trainable_weights} == {id(w) for w in selection.trained.values()}


def test_random_states_are_neither_frozen_nor_trained(network: Any) -> None:
    states = {id(variable) for variable in network.model.variables} - {id(weight) for weight in network.model.weights}
    assert len(states) == 1  # the dropout's
    assert states.isdisjoint(id(weight) for weight in schedule.weights_of(network.model).values())


def test_sizes_count_numbers(network: Any) -> None:
    trains, frozen = schedule.select(network, phase({"match": "first"})).sizes()
    assert trains == (12 * 2 + 2) + 2 * 12 + (3 * 3 + 3)
    assert frozen == (3 * 3 + 3) + 3 * (4 * 3)


def test_unfreezing_nothing_but_batch_norm_is_refused_with_the_phase_named(network: Any) -> None:
    with pytest.raises(UserError, match=r"Phase 'p' unfreezes nothing but inner/norm, norm") as caught:
        schedule.select(network, phase({"match": "norm$"}))
    assert caught.value.failure().code == "nothing_to_unfreeze"
    assert caught.value.failure().phase == "p"


def test_an_unknown_layer_is_refused_with_the_phase_named(network: Any) -> None:
    with pytest.raises(UserError, match="'frist'") as caught:
        schedule.select(network, phase({"from_layer": "frist"}))
    assert caught.value.failure().code == "unknown_layer"
    assert caught.value.failure().phase == "p"


def test_each_weight_of_an_unfrozen_layer_gets_the_part_of_the_rate_of_its_layer(network: Any) -> None:
    decayed = Phase(name="p", unfreeze={"last": 4}, epochs=1, layer_decay=0.5)
    selection = schedule.select(network, decayed)
    assert selection.factors == {"wrapped": 0.5, "inner/norm": 0.25, "inner/dense": 0.125, "norm": 0.0625}
    names = {id(variable): name for name, variable in selection.trained.items()}
    found = {names[id(variable)]: factor for variable, factor in selection.rate_factors()}
    assert found == {"inner/dense/0.kernel": 0.125, "inner/dense/1.bias": 0.125}


def test_batch_norm_that_is_to_train_trains_where_it_is_unfrozen_and_nowhere_else(network: Any) -> None:
    last = Phase(name="p", unfreeze={"last": 2}, epochs=1, batch_norm="train")
    selection = schedule.select(network, last)
    schedule.freeze(network, selection)
    flagged = {id(weight) for weight in network.model.trainable_weights}
    norms = {"inner/norm/0.gamma", "inner/norm/1.beta", "wrapped/0.gamma", "wrapped/1.beta"}
    assert {
        name for name, weight in schedule.weights_of(network.model).items() if id(weight) in flagged
    } == HEAD | norms
    moving = ("2.moving_mean", "3.moving_variance")
    assert {f"norm/{name}" for name in moving} <= selection.frozen.keys()
    assert not {f"{layer}/{name}" for layer in ("inner/norm", "wrapped") for name in moving} & selection.frozen.keys()
