"""Plans: layers, boundary, cache, memory and time, in numbers that were worked out by hand.

The source is 4 -> 4 -> 4 -> 4 dense, 20 parameters each; the head is one sigmoid on 4 numbers, 5 parameters; the
dataset has 200 examples in each split. Caches are required, as they would save too little.
"""

import dataclasses
from typing import Any

import pytest

from app.domain.model import LayerRow
from app.domain.plan import Plan
from app.domain.probe import Probe
from app.services import jobs
from app.services.context import Services

pytestmark = pytest.mark.parametrize("db", ["sqlite"], indirect=True)  # no statement here is another one's

HEAD = {"name": "head", "unfreeze": "none", "epochs": 4, "optimizer": {"type": "sgd", "learning_rate": 0.01}}
TOP = {"name": "top", "unfreeze": {"last": 1}, "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.001}}
ALL = {"name": "all", "unfreeze": "all", "epochs": 16, "optimizer": {"type": "sgd", "learning_rate": 0.0001}}


def test_every_layer_says_what_happens_to_it_and_why(world: Any) -> None:
    head, top, everything = _plan(world, schedule=[HEAD, TOP, ALL]).phases
    assert [layer.path for layer in top.layers] == ["in", "dense_1", "dense_2", "output"]
    assert [layer.part for layer in top.layers] == ["backbone", "backbone", "backbone", "head"]
    assert [layer.state for layer in head.layers] == ["weightless", "frozen", "frozen", "trains"]
    assert [layer.state for layer in top.layers] == ["weightless", "frozen", "trains", "trains"]
    assert [layer.state for layer in everything.layers] == ["weightless", "trains", "trains", "trains"]
    assert [layer.because for layer in top.layers] == [
        "no weights", "not unfrozen", "unfrozen", "the head always trains",
    ]  # fmt: skip
    assert [layer.learning_rate for layer in top.layers] == [None, None, 0.001, 0.001]
    assert [layer.trained_parameters for layer in top.layers] == [0, 0, 20, 5]
    assert (top.trainable_backbone_parameters, top.trainable_parameters) == (20, 25)


def test_steps_are_counted_with_the_last_small_batch(world: Any) -> None:
    assert [phase.steps for phase in _plan(world, schedule=[HEAD, TOP], batch_size=64).phases] == [16, 8]
    gathered = {**HEAD, "gradient_accumulation": 2}
    assert [phase.steps for phase in _plan(world, schedule=[gathered], batch_size=64).phases] == [8]


def test_the_cache_holds_the_boundary_of_training_and_validation(world: Any) -> None:
    head, top, everything = _plan(world, schedule=[HEAD, TOP, ALL]).phases
    assert (head.boundary, top.boundary, everything.boundary) == (["dense_2"], ["dense_1"], ["in"])
    assert (head.cache.applies, head.cache.bytes) == (True, 4 * 4 * 400)
    assert [layer.cached for layer in top.layers] == [True, True, False, False]
    assert (everything.cache.applies, everything.cache.bytes) == (False, None)
    assert everything.cache.because == "no frozen layer with weights stands below what trains or draws at random"


def test_a_cache_that_saves_too_little_or_is_switched_off_is_none(world: Any) -> None:
    for cache, because in (("auto", "it would save too little"), ("off", "the job switches it off")):
        head, _ = (phase.cache for phase in _plan(world, cache=cache).phases)
        assert (head.applies, head.because, head.bytes) == (False, because, None)


def test_a_cache_pays_from_so_many_multiplications(world: Any) -> None:
    """A layer of 1,000 weights at 100 x 100 places, 400 examples: 4e9 in each epoch after the first."""
    rows = [_row(0), _row(1, "Conv2D", output_shape=[None, 100, 100, 5], parameters=1000), _row(2)]
    model = world.model(world.info(layers=rows)).id
    for epochs, applies in ((1, False), (2, True)):
        head = {**HEAD, "epochs": epochs}
        (phase,) = _plan(world, model=model, cache="auto", cut={"layer": "layer_1"}, schedule=[head]).phases
        assert (phase.cache.applies, phase.boundary) == (applies, ["head_global_average_pooling"])


def test_a_cache_that_is_larger_than_allowed_is_none(world: Any, services: Services) -> None:
    small = services.settings.model_copy(update={"features_bytes": 4 * 4 * 400 - 1})
    found = jobs.plan(dataclasses.replace(services, settings=small), "default", world.request(cache="require"))
    assert found.phases[0].cache.because == "its 6,400 bytes are more than the 6,399 that are allowed"


def test_each_layer_gets_its_own_rate(world: Any) -> None:
    decayed = {**ALL, "layer_decay": 0.1, "learning_rate_schedule": {"type": "one_cycle"}}
    (phase,) = _plan(world, schedule=[decayed]).phases
    rates = [layer.learning_rate for layer in phase.layers if layer.learning_rate]
    assert rates == pytest.approx([1e-6, 1e-5, 1e-4])
    assert phase.learning_rate_schedule == "one_cycle"


def test_batch_norm_that_is_to_train_trains(world: Any) -> None:
    rows = [_row(0), _row(1), _row(2, "BatchNormalization", parameters=16), _row(3)]
    model = world.model(world.info(layers=rows)).id
    (phase,) = _plan(world, model=model, schedule=[{**ALL, "batch_norm": "train"}], batch_size=8).phases
    assert [layer.state for layer in phase.layers] == ["weightless", "trains", "trains", "trains"]


def test_held_batch_norm_is_told_apart(world: Any) -> None:
    rows = [_row(0), _row(1), _row(2, "BatchNormalization", parameters=16), _row(3)]
    info = world.info(layers=rows)
    (phase,) = _plan(world, model=world.model(info).id, schedule=[ALL]).phases
    assert [layer.state for layer in phase.layers] == ["weightless", "trains", "held", "trains"]
    assert (phase.held_layers, phase.trainable_backbone_parameters) == (["layer_2"], 20)
    (phase,) = _plan(world, model=world.model(info).id, schedule=[ALL], backbone_weights="random").phases
    assert [layer.state for layer in phase.layers] == ["weightless", "trains", "trains", "trains"]
    assert (phase.held_layers, phase.trainable_backbone_parameters) == ([], 28)


def test_held_batch_norm_at_the_bottom_of_what_is_unfrozen_is_below_the_boundary(world: Any) -> None:
    rows = [_row(0), _row(1), _row(2, "BatchNormalization", parameters=16), _row(3), _row(4)]
    model = world.model(world.info(layers=rows)).id
    for batch_norm, edge in (("frozen", "layer_2"), ("train", "layer_1")):
        above = {**ALL, "unfreeze": {"last": 2}, "batch_norm": batch_norm}
        (phase,) = _plan(world, model=model, schedule=[above]).phases
        assert phase.boundary == [edge]


def test_memory_is_the_sum_of_what_is_counted(world: Any) -> None:
    head, top = (phase.memory for phase in _plan(world, schedule=[HEAD, TOP], batch_size=10).phases)
    assert (head.weights_bytes, head.gradients_bytes, head.optimizer_bytes) == (4 * 45, 4 * 5, 0)
    assert head.activations_bytes == 4 * 10 * (1 + 4 + 4), "the head's one output, and two neighbours of the backbone"
    assert (top.gradients_bytes, top.optimizer_bytes) == (4 * 25, 2 * 4 * 25), "Adam keeps two numbers for each"
    assert top.activations_bytes == 4 * 10 * (4 + 1 + 4 + 4)
    assert top.total_bytes == 4 * 45 + 4 * 25 + 8 * 25 + 4 * 130


def test_the_sources_own_output_layer_is_a_head_that_trains(world: Any) -> None:
    (phase,) = _plan(world, head="keep", cut={"drop_last": 0}, schedule=[HEAD], training_file=_four(world)).phases
    assert [(layer.path, layer.part, layer.state) for layer in phase.layers] == [
        ("in", "backbone", "weightless"),
        ("dense_1", "backbone", "frozen"),
        ("dense_2", "backbone", "frozen"),
        ("out", "head", "trains"),
    ]
    assert (phase.boundary, phase.trainable_parameters) == (["dense_2"], 20)


def test_half_precision_halves_what_layers_give_and_not_the_weights(world: Any) -> None:
    full, half = (_plan(world, mixed_precision=type_, schedule=[HEAD]).phases[0] for type_ in ("off", "bfloat16"))
    assert half.memory.activations_bytes * 2 == full.memory.activations_bytes
    assert half.memory.weights_bytes == full.memory.weights_bytes
    assert half.cache.bytes * 2 == full.cache.bytes


def test_without_a_measurement_there_is_no_time(world: Any) -> None:
    plan = _plan(world)
    assert (plan.seconds, [phase.time for phase in plan.phases]) == (None, [None, None])


def test_times_are_told_from_the_probe(world: Any) -> None:
    """Work: 20 + 10 * 4 = 60 for each of the source's three layers, 5 + 10 for the head's; a pass takes 180 us."""
    probe = Probe(device="cpu", input_shape=[4], batch_size=32, forward_seconds=180e-6, training_seconds=540e-6)
    model = world.model(world.info(probe=probe)).id
    head, top, everything = (phase.time for phase in _plan(world, model=model, schedule=[HEAD, TOP, ALL]).phases)
    once, each = 120e-6 * 400, 15e-6 * 400 + 2 * 15e-6 * 200
    assert head.epoch_seconds == pytest.approx(each)
    assert head.start_seconds == pytest.approx(1 + 0.008 * 1 + 0.01 * 1 + once)
    assert head.seconds == pytest.approx(head.start_seconds + 4 * each)
    assert top.epoch_seconds == pytest.approx(75e-6 * 400 + 2 * 75e-6 * 200)
    assert everything.epoch_seconds == pytest.approx(135e-6 * 400 + 2 * 135e-6 * 200)
    assert {(each.origin, each.device) for each in (head, top, everything)} == {("probe", "cpu")}


def test_sizes_of_a_source_of_free_size_are_scaled_from_those_that_registration_saw(world: Any) -> None:
    rows = [
        _row(0, output_shape=[None, None, None, 3]),
        _row(1, "Conv2D", output_shape=[None, None, None, 8], parameters=224),
        _row(2, "Conv2D", output_shape=[None, None, None, 8], parameters=72),
        _row(3, "GlobalAveragePooling2D", output_shape=[None, 8], parameters=0, has_weights=False),
    ]
    probe = Probe(
        device="cpu",
        input_shape=[128, 128, 3],
        batch_size=4,
        forward_seconds=1e-3,
        output_numbers=[49_152, 32_768, 32_768, 8],
    )
    info = world.info(layers=rows, input_shape=[None, None, None, 3], parameters=296)
    data = world.dataset(world.data_info(kind="images", example_shape=[64, 64, 3], dtype="uint8")).id
    cut = {"layer": "layer_2"}
    for known, size in ((info, None), (info.model_copy(update={"probe": probe}), 32_768 // 4 * 4 * 400)):
        plan = _plan(world, model=world.model(known).id, training_file=data, cut=cut, schedule=[TOP])
        assert (plan.phases[0].cache.applies, plan.phases[0].cache.bytes) == (True, size)
    assert plan.phases[0].time is not None


def _plan(world: Any, **changes: Any) -> Plan:
    return jobs.plan(world.services, "default", world.request(**{"cache": "require", **changes}))


def _four(world: Any) -> str:
    """A dataset of four classes."""
    return str(world.dataset(world.data_info(task="single_label", classes=["a", "b", "c", "d"])).id)


def _row(index: int, class_name: str = "Dense", **changes: Any) -> LayerRow:
    values = {
        "index": index,
        "path": f"layer_{index}",
        "class_name": class_name if index else "InputLayer",
        "output_shape": [None, 4],
        "parameters": 20 if index else 0,
        "has_weights": index > 0,
        "legal_cut": index > 0,
    }
    return LayerRow(**{**values, **changes})
