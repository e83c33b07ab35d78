"""What a job may ask for."""

import pytest
from pydantic import ValidationError

from app.domain.job import JobRequest
from app.domain.optimizers import AdamW, Sgd
from app.domain.phases import Phase, UnfreezeLast
from app.domain.spec import DropLast, Spec, resolve, total_epochs

SGD = {"type": "sgd", "learning_rate": 0.01}


def _wrong_fields(document: dict[str, object]) -> set[tuple[object, ...]]:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(document)
    return {error["loc"] for error in caught.value.errors()}


def test_an_empty_spec_is_the_textbook_recipe() -> None:
    spec = resolve(Spec(), seed=7)
    assert spec.cut == DropLast(drop_last=1)
    assert [(phase.name, phase.unfreeze, phase.epochs) for phase in spec.schedule] == [
        ("head", "none", 4),
        ("all", "all", 16),
    ]
    assert [phase.optimizer for phase in spec.schedule] == [
        Sgd(type="sgd", learning_rate=0.01),
        Sgd(type="sgd", learning_rate=0.0001),
    ]
    assert spec.seed == 7
    assert total_epochs(spec.schedule) == 20


def test_unnamed_phases_get_names_from_their_position() -> None:
    spec = Spec(schedule=[Phase(epochs=1), Phase(name="mine", epochs=1), Phase(epochs=1)])
    assert [phase.name for phase in resolve(spec, seed=0).schedule] == ["phase-1", "mine", "phase-3"]


def test_a_resolved_spec_survives_its_json() -> None:
    spec = resolve(
        Spec.model_validate({"schedule": [{"unfreeze": {"last": 3}, "epochs": 2, "optimizer": SGD}]}), seed=1
    )
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    assert spec.schedule[0].unfreeze == UnfreezeLast(last=3)


def test_every_wrong_field_is_reported_at_once() -> None:
    fields = _wrong_fields(
        {
            "cut": {"layr": "x"},
            "schedule": [{"unfreeze": "none", "epochs": 0, "optimizer": SGD}],
            "batch_size": -1,
            "unknown": 1,
        }
    )
    assert fields == {("cut",), ("schedule", "phases", 0, "epochs"), ("batch_size",), ("unknown",)}


@pytest.mark.parametrize(
    "cut",
    [{}, {"drop_last": 1, "keep_first": 2}, {"drop_last": -1}, {"keep_first": 0}, {"fraction": 1.5}, {"layer": ""}, 3],
)
def test_a_cut_has_exactly_one_form_and_a_sensible_value(cut: object) -> None:
    assert _wrong_fields({"cut": cut})


@pytest.mark.parametrize("unfreeze", ["some", {}, {"last": 0}, {"fraction": 0}, {"match": ""}, None, []])
def test_an_unfreeze_is_a_known_word_or_one_selection(unfreeze: object) -> None:
    assert _wrong_fields({"schedule": [{"unfreeze": unfreeze, "epochs": 1, "optimizer": SGD}]})


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "fast"])
def test_a_learning_rate_is_a_positive_finite_number(rate: object) -> None:
    assert _wrong_fields({"schedule": [{"epochs": 1, "optimizer": {"type": "adam", "learning_rate": rate}}]})


def test_an_optimizer_takes_only_its_own_options() -> None:
    assert _wrong_fields({"schedule": [{"epochs": 1, "optimizer": {**SGD, "beta_1": 0.9}}]}) == {
        ("schedule", "phases", 0, "optimizer", "sgd", "beta_1")
    }


def test_adamw_decays_weights_unless_told_otherwise() -> None:
    assert AdamW(type="adamw", learning_rate=0.001).weight_decay == 0.004


def test_gradients_are_clipped_in_one_way_at_most() -> None:
    assert _wrong_fields({"schedule": [{"epochs": 1, "optimizer": {**SGD, "clipnorm": 1.0, "clipvalue": 0.5}}]})


def test_two_phases_may_not_share_a_name() -> None:
    assert _wrong_fields({"schedule": [{"name": "a", "epochs": 1}, {"name": "a", "epochs": 1}]}) == {()}


def test_metadata_is_limited_as_openai_limits_it() -> None:
    with pytest.raises(ValidationError):
        JobRequest(model="m", training_file="d", metadata={"k" * 65: "v"})
    with pytest.raises(ValidationError):
        JobRequest(model="m", training_file="d", metadata={str(number): "" for number in range(17)})


@pytest.mark.parametrize(
    ("phases", "kind", "at"),
    [
        ([{"epochs": 1, "optimizer_state": "carry"}], "no_phase_before", [0, "optimizer_state"]),
        ([{"epochs": 1, "start_from": "best"}], "no_phase_before", [0, "start_from"]),
        (
            [{"epochs": 1}, {"epochs": 1, "optimizer_state": "carry", "optimizer": {**SGD, "type": "adam"}}],
            "other_optimizer",
            [1, "optimizer_state"],
        ),
    ],
)  # fmt: skip
def test_a_phase_takes_over_only_what_is_there(phases: list[dict[str, object]], kind: str, at: list[object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate({"schedule": phases})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"], error["ctx"]["at"]) == (("schedule",), kind, at)


def test_a_phase_may_carry_on_with_other_options_of_the_same_optimizer() -> None:
    Spec.model_validate({"schedule": [{"epochs": 1}, {"epochs": 1, "optimizer_state": "carry", "start_from": "best"}]})


def test_random_weights_have_no_batch_norm_statistics_to_keep() -> None:
    for weights, expected in (("source", "frozen"), ("random", "train")):
        spec = resolve(Spec(backbone_weights=weights), seed=0)
        assert {phase.batch_norm for phase in spec.schedule} == {expected}


@pytest.mark.parametrize("names", [("phase-2", None), ("a", "a"), (None, "phase-1")])
def test_a_phase_without_a_name_is_named_by_its_place_as_no_other(names: tuple[str | None, ...]) -> None:
    phases = [{"epochs": 1, "name": name} for name in names]
    with pytest.raises(ValidationError, match="Phase names must differ"):
        Spec.model_validate({"schedule": phases})
