"""What presets stand for."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.phases import EarlyStopping
from app.domain.spec import ResolvedSpec, Spec, resolve

NAMES = ["two_phase", "head_only", "gradual", "fine_tune", "full", "from_scratch"]


def expanded(schedule: Any, **fields: Any) -> ResolvedSpec:
    return resolve(Spec.model_validate({"schedule": schedule, **fields}), seed=0)


def told(spec: ResolvedSpec) -> list[tuple[Any, ...]]:
    return [
        (phase.name, phase.unfreeze, phase.epochs, phase.optimizer.type, phase.optimizer.learning_rate)
        for phase in spec.schedule
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_preset_without_options_and_the_phases_say_it_all(name: str) -> None:
    spec = expanded(name)
    assert spec == expanded({"preset": name})
    assert spec.preset == name
    again = resolve(Spec(schedule=spec.schedule, backbone_weights=spec.backbone_weights), seed=0)
    assert again == spec.model_copy(update={"preset": None})
    assert ResolvedSpec.model_validate_json(spec.model_dump_json()) == spec


def test_two_phase_is_the_textbook_recipe() -> None:
    assert told(expanded("two_phase")) == [("head", "none", 4, "sgd", 0.01), ("all", "all", 16, "sgd", 0.0001)]
    options = {"preset": "two_phase", "epochs": 2, "learning_rate": 0.1, "unfreeze": {"last": 2}, "optimizer": "adam"}
    phases = expanded(options).schedule
    assert phases[1].model_dump()["unfreeze"] == {"last": 2}
    assert (phases[1].epochs, phases[1].optimizer.learning_rate) == (2, pytest.approx(0.001))


def test_gradual_unfreezes_one_block_more_in_each_phase_at_lower_rates() -> None:
    phases = expanded({"preset": "gradual", "blocks": 3, "learning_rate": 0.01, "rate_factor": 0.5}).schedule
    assert [phase.model_dump()["unfreeze"] for phase in phases] == [
        "none",
        {"fraction": 1 / 3},
        {"fraction": 2 / 3},
        "all",
    ]
    assert [phase.optimizer.learning_rate for phase in phases] == pytest.approx([0.01, 0.005, 0.0025, 0.00125])
    assert len(expanded({"preset": "gradual", "blocks": 49}).schedule) == 50


def test_fine_tune_is_that_of_fastai() -> None:
    head, everything = expanded({"preset": "fine_tune", "epochs": 10, "learning_rate": 0.004}).schedule
    assert (head.unfreeze, head.epochs, head.optimizer.learning_rate, head.layer_decay) == ("none", 1, 0.004, None)
    assert head.learning_rate_schedule.model_dump() == {
        "type": "one_cycle", "warmup_epochs": 0.99, "start_factor": 0.04, "end_factor": 1e-5,
    }  # fmt: skip
    assert (everything.unfreeze, everything.optimizer.learning_rate, everything.layer_decay) == ("all", 0.002, 0.9)
    assert everything.learning_rate_schedule.model_dump() == {
        "type": "one_cycle", "warmup_epochs": 3.0, "start_factor": 0.2, "end_factor": 1e-5,
    }  # fmt: skip


def test_from_scratch_draws_new_weights_and_trains_batch_norm() -> None:
    spec = expanded("from_scratch")
    assert spec.backbone_weights == "random"
    assert [(phase.unfreeze, phase.batch_norm) for phase in spec.schedule] == [("all", "train")]
    assert expanded("from_scratch", backbone_weights="random") == spec
    with pytest.raises(ValidationError) as caught:
        expanded("from_scratch", backbone_weights="source")
    assert caught.value.errors()[0]["ctx"]["at"] == ["backbone_weights"]


@pytest.mark.parametrize("name", NAMES)
def test_early_stopping_is_for_the_last_phase(name: str) -> None:
    *others, last = expanded({"preset": name, "early_stopping": {"patience": 2}}).schedule
    assert last.early_stopping == EarlyStopping(patience=2)
    assert all(phase.early_stopping is None for phase in others)


def test_full_warms_up_and_falls() -> None:
    (phase,) = expanded("full").schedule
    assert (phase.unfreeze, phase.learning_rate_schedule.type, phase.learning_rate_schedule.warmup_epochs) == (
        "all", "cosine", 1,
    )  # fmt: skip


def test_a_head_is_kept_only_where_nothing_is_cut() -> None:
    assert expanded("full", head="keep", cut={"drop_last": 0}).head == "keep"
    with pytest.raises(ValidationError, match="set cut to"):
        expanded("full", head="keep")
