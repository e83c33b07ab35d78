"""Plans: what would happen, in full, and what is worth knowing before."""

from typing import Any

import pytest

from app.domain.dataset import SplitInfo
from app.domain.errors import InvalidRequestError
from app.domain.model import LayerRow
from app.domain.plan import Plan
from app.services import jobs, models
from app.services.context import Services
from app.storage.paging import PageQuery

pytestmark = pytest.mark.parametrize("db", ["sqlite"], indirect=True)  # no statement here is another one's

HEAD = {"name": "head", "unfreeze": "none", "epochs": 4, "optimizer": {"type": "sgd", "learning_rate": 0.01}}
ALL = {"name": "all", "unfreeze": "all", "epochs": 16, "optimizer": {"type": "sgd", "learning_rate": 0.0001}}


def test_the_textbook_job_in_full(world: Any) -> None:
    plan = _plan(world)
    assert plan.cut_layer == "dense_2"
    assert plan.dropped_layers == ["out"]
    assert plan.output == "sigmoid: 'b' against 'a'"
    head, everything = plan.phases
    assert (head.name, head.epochs, head.optimizer, head.learning_rate) == ("head", 4, "sgd", 0.01)
    assert (head.unfrozen_layers, head.frozen_layers, head.trainable_backbone_parameters) == ([], 2, 0)
    assert everything.unfrozen_layers == ["dense_1", "dense_2"]
    assert (everything.frozen_layers, everything.trainable_backbone_parameters) == (0, 40)
    assert plan.warnings == []


def test_the_spec_of_a_plan_says_no_default(world: Any) -> None:
    plan = _plan(world, seed=7, schedule=[{"epochs": 2}])
    assert plan.spec.seed == 7
    assert plan.spec.schedule[0].name == "phase-1"
    assert plan.spec.schedule[0].optimizer.learning_rate == 0.01


def test_a_branch_that_the_cut_does_not_need_is_dropped(world: Any) -> None:
    rows = [_row(0, "in"), _row(1, "left", inputs=[0]), _row(2, "right", inputs=[0]), _row(3, "join", inputs=[1, 2])]
    plan = _plan(world, model=world.model(world.info(layers=rows)).id, cut={"layer": "right"})
    assert (plan.cut_layer, plan.dropped_layers) == ("right", ["left", "join"])
    assert plan.phases[1].unfrozen_layers == ["right"]


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({"task": "single_label", "classes": ["a", "b", "c"]}, "softmax over 3 classes"),
        ({"task": "multi_label", "classes": ["a", "b", "c"]}, "a sigmoid for each of 3 labels"),
        ({"task": "regression", "classes": None}, "linear: 1 number"),
        ({"task": "regression", "classes": None, "targets": 3}, "linear: 3 numbers"),
    ],
)
def test_the_output_layer_is_told_in_words(world: Any, changes: dict[str, Any], output: str) -> None:
    assert _plan(world, training_file=world.dataset(world.data_info(**changes)).id).output == output


def test_a_plan_makes_nothing(world: Any, services: Services, bell: Any) -> None:
    request = world.request()
    bell.rings.clear()
    jobs.plan(services, "default", request)
    assert jobs.list_page(services, "default", PageQuery()).items == []
    assert bell.rings == []


def test_a_plan_is_refused_as_the_job_would_be(world: Any, services: Services) -> None:
    request = world.request(cut={"layer": "nowhere"}, training_file="ds-unknown")
    for call in (jobs.plan, jobs.submit):
        with pytest.raises(InvalidRequestError) as caught:
            call(services, "default", request)
        assert {problem.pointer for problem in caught.value.problems} == {"/cut/layer", "/training_file"}


def test_a_phase_that_unfreezes_nothing_but_held_batch_norm_is_refused(world: Any, services: Services) -> None:
    rows = [_row(0, "in"), _row(1, "dense"), _row(2, "norm", class_name="BatchNormalization"), _row(3, "out")]
    last = {"unfreeze": {"last": 1}, "epochs": 4}
    request = world.request(model=world.model(world.info(layers=rows)).id, schedule=[last])
    for call in (jobs.plan, jobs.submit):
        with pytest.raises(InvalidRequestError) as caught:
            call(services, "default", request)
        (problem,) = caught.value.problems
        assert (problem.pointer, problem.code) == ("/schedule/0/unfreeze", "nothing_to_unfreeze")
    for change in ({"schedule": [{**last, "batch_norm": "train"}]}, {"backbone_weights": "random"}):
        jobs.plan(services, "default", request.model_validate({**request.model_dump(), **change}))


def test_a_plan_needs_what_is_ready(world: Any, services: Services) -> None:
    file = world.file()
    for model in (file.id, world.job(model=file.id).model_id):
        with pytest.raises(InvalidRequestError) as caught:
            _plan(world, model=model)
        (problem,) = caught.value.problems
        assert (problem.pointer, problem.code) == ("/model", "not_ready")
    world.finish_model(models.list_page(services, "default", PageQuery(), status="validating").items[0].id)
    assert _plan(world, model=file.id).cut_layer == "dense_2"


# === Warnings ===


def test_a_learning_rate_that_does_not_fall_when_layers_are_unfrozen(world: Any) -> None:
    fast = {**ALL, "optimizer": {"type": "sgd", "learning_rate": 0.01}}
    (warning,) = _plan(world, schedule=[HEAD, fast]).warnings
    assert "Phase 'all' unfreezes 2 more layers" in warning
    assert "0.01 is not below the 0.01 of 'head'" in warning


def test_rates_are_compared_only_where_layers_are_added_and_optimizers_are_alike(world: Any) -> None:
    adam = {**ALL, "optimizer": {"type": "adam", "learning_rate": 0.01}}
    again = {**ALL, "name": "again"}
    assert _plan(world, schedule=[HEAD, adam]).warnings == []
    assert _plan(world, schedule=[HEAD, ALL, again]).warnings == []


def test_many_weights_on_few_examples(world: Any) -> None:
    rows = [_row(0, "in"), _row(1, "big", parameters=200_001), _row(2, "out")]
    model = world.model(world.info(layers=rows)).id
    (warning,) = _plan(world, model=model).warnings
    assert "Phase 'all' trains 200,001 weights of the backbone on 200 examples" in warning
    assert _plan(world, model=model, schedule=[HEAD]).warnings == []


def test_a_batch_that_is_larger_than_the_training_split(world: Any) -> None:
    _short, warning = _plan(world, batch_size=201).warnings
    assert "batch_size 201 is larger than the training split of 200" in warning
    assert "batch_size" not in " ".join(_plan(world, batch_size=200).warnings)


def test_a_dataset_that_is_too_small(world: Any) -> None:
    small = SplitInfo(examples=64, class_counts={"a": 60, "b": 4})
    splits = {"train": small, "validation": small, "test": small}
    warnings = _plan(world, training_file=world.dataset(world.data_info(splits=splits)).id).warnings
    assert any("Class 'b' has only 4 training examples" in warning for warning in warnings)
    assert any("test split has 64 examples" in warning for warning in warnings)


def test_examples_that_stand_in_more_than_one_split(world: Any) -> None:
    data = world.dataset(world.data_info(duplicates_across_splits=3)).id
    (warning,) = _plan(world, training_file=data).warnings
    assert "3 examples stand in more than one split" in warning


def test_a_required_cache_that_cannot_be(world: Any) -> None:
    pictures = world.data_info(kind="images", example_shape=[8, 8, 3], dtype="uint8", value_range=(0.0, 255.0))
    rows = [_row(0, "in", output_shape=[None, 8, 8, 3])]
    rows += [_row(index, f"conv_{index}", output_shape=[None, 8, 8, 4]) for index in (1, 2)]
    source = world.info(layers=rows, input_shape=[None, 8, 8, 3], rescale="none")
    asked = {"model": world.model(source).id, "training_file": world.dataset(pictures).id, "schedule": [HEAD]}
    flipped = {**asked, "augmentation": [{"type": "flip", "mode": "horizontal"}]}
    (warning,) = _plan(world, cache="require", **flipped).warnings
    assert "would fail in phase 'head'" in warning
    assert "augmentation changes the examples in every epoch" in warning
    assert _plan(world, **flipped).warnings == []
    assert _plan(world, cache="require", **asked).warnings == []


def test_batch_norm_that_trains_on_small_batches(world: Any) -> None:
    head = {"layers": [{"type": "batch_normalization"}]}
    (warning,) = _plan(world, head=head, batch_size=8, schedule=[HEAD]).warnings
    assert "'head' trains 1 BatchNormalization layer on batches of 8" in warning
    assert _plan(world, head=head, batch_size=16, schedule=[HEAD]).warnings == []
    assert _plan(world, batch_size=8, schedule=[HEAD]).warnings == []


def test_more_phases_than_epochs_can_serve(world: Any) -> None:
    short = [{**HEAD, "name": name, "epochs": 1} for name in ("a", "b")]
    (warning,) = _plan(world, schedule=[*short, HEAD], batch_size=100).warnings
    assert "Phases 'a' (2), 'b' (2), 'head' (8): so few optimizer steps" in warning
    assert _plan(world, schedule=[{**HEAD, "epochs": 5}], batch_size=100).warnings == []


def test_early_stopping_that_cannot_stop_anything(world: Any) -> None:
    patient = {**HEAD, "early_stopping": {"patience": 4}}
    (warning,) = _plan(world, schedule=[patient]).warnings
    assert "waits for 4 epochs without improvement, and the phase has 4" in warning
    assert _plan(world, schedule=[{**HEAD, "early_stopping": {"patience": 3}}]).warnings == []


def test_early_stopping_on_few_validation_examples(world: Any) -> None:
    many, few = SplitInfo(examples=200), SplitInfo(examples=49)
    data = world.dataset(world.data_info(splits={"train": many, "validation": few, "test": many})).id
    watched = {**HEAD, "early_stopping": {"patience": 2}}
    (warning,) = _plan(world, training_file=data, schedule=[watched]).warnings
    assert "the loss on 49 validation examples" in warning
    assert _plan(world, training_file=data, schedule=[HEAD]).warnings == []


def test_frozen_layers_of_a_random_backbone(world: Any) -> None:
    (warning,) = _plan(world, backbone_weights="random").warnings
    assert "phase 'head' keeps 2 layers frozen" in warning
    assert _plan(world, backbone_weights="random", schedule=[ALL]).warnings == []


def _plan(world: Any, **changes: Any) -> Plan:
    return jobs.plan(world.services, "default", world.request(**changes))


def _row(index: int, path: str, **changes: Any) -> LayerRow:
    values = {
        "index": index,
        "path": path,
        "class_name": "Dense" if index else "InputLayer",
        "output_shape": [None, 4],
        "parameters": 20 if index else 0,
        "has_weights": index > 0,
        "legal_cut": index > 0,
    }
    return LayerRow(**{**values, **changes})


def test_a_rescale_that_is_not_the_sources_own(world: Any) -> None:
    model = world.model(world.info(rescale="minus_one_to_one")).id
    data = world.dataset(world.data_info(dtype="uint8", value_range=(0.0, 255.0))).id
    (warning,) = _plan(world, model=model, training_file=data, preprocessing={"rescale": "zero_to_one"}).warnings
    assert "is 'zero_to_one', but the source was trained with 'minus_one_to_one'" in warning
    assert _plan(world, model=model, training_file=data).warnings == []


def test_examples_that_are_scaled_already(world: Any) -> None:
    data = world.dataset(world.data_info(value_range=(0.0, 1.0))).id
    (warning,) = _plan(world, training_file=data, preprocessing={"rescale": "zero_to_one"}).warnings
    assert "lie in [0, 1] already" in warning
    assert _plan(world, training_file=data).warnings == []


def test_a_source_of_which_nobody_knows_how_it_wants_its_inputs(world: Any) -> None:
    data = world.dataset(world.data_info(dtype="uint8", value_range=(0.0, 255.0))).id
    (warning,) = _plan(world, training_file=data).warnings
    assert "Nobody has said how the source wants its inputs" in warning
    assert _plan(world, training_file=data, preprocessing={"rescale": "none"}).warnings == []
