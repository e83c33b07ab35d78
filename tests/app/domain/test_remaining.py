"""What a job had left, said on the model of a checkpoint, in whose backbone the head's hidden layers are."""

from typing import Any

import pytest

from app.domain import remaining
from app.domain.errors import UserError
from app.domain.job import Checkpoint, number_within
from app.domain.model import LayerRow
from app.domain.phases import Phase, UnfreezeLast
from app.domain.progress import PhaseProgress
from app.domain.spec import Spec, resolve

DENSE = {"type": "dense", "units": 3}
NORM = {"type": "batch_normalization"}
LAYER_NORM = {"type": "layer_normalization"}
DROPOUT = {"type": "dropout", "rate": 0.5}
POOLING = {"type": "global_average_pooling"}


def source(*classes: str) -> list[LayerRow]:
    """An input, layers of these classes from below, and an output layer, which is cut off."""
    return [
        LayerRow(
            index=index,
            path=f"{name.lower()}_{index}",
            class_name=name,
            output_shape=[None, 4],
            parameters=0 if name in {"InputLayer", "Dropout"} else 20,
            has_weights=name not in {"InputLayer", "Dropout"},
            legal_cut=index > 0,
        )
        for index, name in enumerate(["InputLayer", *classes, "Dense"])
    ]


PLAIN = source("Dense", "Dense", "Dense")


def left(head: list[dict[str, Any]], rows: list[LayerRow] | None = PLAIN, **phase: Any) -> Phase:
    """The one phase after the first of two."""
    schedule = [{"name": "head", "epochs": 1}, {"name": "more", "epochs": 2, **phase}]
    (found,) = remaining.phases(resolve(Spec(head={"layers": head}, schedule=schedule), seed=1), end_of(1), rows)
    return found


def end_of(index: int, *, number: int | None = None) -> Checkpoint:
    place = PhaseProgress(index=index, name="head", epoch=1, epochs=1)
    return Checkpoint(
        id="ckpt-1", kind="phase", job_id="ftjob-1", created_at=0.0, attempt=1, number=number or index, step=9,
        phase=place, metrics={}, artifact=None, files=[],
    )  # fmt: skip


@pytest.mark.parametrize("head", [[], [POOLING], [DROPOUT]], ids=["none", "pooling", "dropout"])
@pytest.mark.parametrize(
    "phase",
    [
        {"unfreeze": "all", "layer_decay": 0.9},
        {"unfreeze": {"last": 2}},
        {"unfreeze": {"fraction": 0.5}},
        {"unfreeze": {"match": "dense_[13]"}},
        {"unfreeze": {"from_layer": "dense_2"}, "batch_norm": "train"},
    ],
)
def test_below_an_output_layer_alone_phases_stay_as_they_are(head: list[Any], phase: dict[str, Any]) -> None:
    assert left(head, **phase) == Phase(name="more", epochs=2, **phase)


def test_an_output_layer_alone_goes_on_training_alone() -> None:
    noisy = source("Dense", "Dropout", "BatchNormalization")
    assert left([], noisy, unfreeze="none", layer_decay=0.9) == Phase(name="more", epochs=2, layer_decay=0.9)


@pytest.mark.parametrize(
    ("unfreeze", "counted"),
    [
        ("none", UnfreezeLast(last=2)),
        ({"last": 1}, UnfreezeLast(last=3)),
        ({"last": 99}, UnfreezeLast(last=5)),
        ({"fraction": 0.5}, UnfreezeLast(last=4)),
        ({"from_layer": "dense_2"}, UnfreezeLast(last=4)),
        ({"match": "dense_[23]"}, UnfreezeLast(last=4)),
        ("all", "all"),
    ],
)
def test_hidden_layers_of_the_head_are_counted_with_those_that_train(unfreeze: Any, counted: Any) -> None:
    assert left([DENSE, DROPOUT, LAYER_NORM], unfreeze=unfreeze) == Phase(name="more", epochs=2, unfreeze=counted)


@pytest.mark.parametrize("head", [[NORM], [DENSE, NORM]], ids=["alone", "above dense"])
def test_batch_normalization_of_the_head_goes_on_training(head: list[Any]) -> None:
    rows = source("BatchNormalization", "Dense")  # held still before, and frozen now
    for unfreeze, last in (("none", len(head)), ({"last": 1}, len(head) + 1)):
        found = left(head, rows, unfreeze=unfreeze)
        assert (found.unfreeze, found.batch_norm) == (UnfreezeLast(last=last), "train")
    assert left(head, rows, unfreeze="all", batch_norm="train").batch_norm == "train"
    assert left(head, PLAIN, unfreeze="all").batch_norm == "train"


def test_batch_normalization_of_the_source_stays_as_it_was_where_the_head_has_none() -> None:
    rows = source("Dense", "BatchNormalization")
    assert left([DENSE], rows, unfreeze="all").batch_norm == "frozen"
    assert left([DENSE], rows, unfreeze="all", batch_norm="train").batch_norm == "train"


def test_a_decay_that_concerned_no_layer_does_not_slow_the_head_down() -> None:
    assert left([DENSE], unfreeze="none", layer_decay=0.5).layer_decay is None
    assert left([DENSE], unfreeze="all", layer_decay=1.0).layer_decay == 1.0


@pytest.mark.parametrize(
    ("head", "rows", "phase", "because"),
    [
        ([DROPOUT], PLAIN, {"unfreeze": "none"}, "the head's dropout would be off"),
        ([DENSE], source("Dense", "Dropout"), {"unfreeze": "none"}, "'dropout_2' of the source"),
        ([DENSE], PLAIN, {"unfreeze": "all", "layer_decay": 0.9}, "layer_decay 0.9"),
        ([NORM], source("BatchNormalization", "Dense"), {"unfreeze": "all"}, "'batchnormalization_1' of the source"),
        ([DENSE], PLAIN, {"unfreeze": {"match": "dense_[13]"}}, "not its topmost"),
        ([DENSE], None, {"unfreeze": "all"}, "was deleted"),
    ],
)
def test_what_would_train_otherwise_is_refused_with_the_reason(
    head: list[Any], rows: list[LayerRow] | None, phase: dict[str, Any], because: str
) -> None:
    with pytest.raises(UserError, match=because) as caught:
        left(head, rows, **phase)
    assert (caught.value.work_code, caught.value.param) == ("head_in_backbone", "schedule")
    assert "'more'" in caught.value.message
    assert "Give the phases in `schedule`" in caught.value.message


def test_dropout_that_is_on_stays_on_where_the_backbone_trains() -> None:
    rows = source("Dense", "Dropout", "Dense")
    assert left([DROPOUT, DENSE], rows, unfreeze={"last": 1}).unfreeze == UnfreezeLast(last=2)
    assert left([DROPOUT], rows, unfreeze="all").unfreeze == "all"
    assert left([DROPOUT, DENSE], PLAIN, unfreeze="none").unfreeze == UnfreezeLast(last=1)
    assert left([{"type": "dropout", "rate": 0.0}], PLAIN, unfreeze="none").unfreeze == "none"


def test_an_output_layer_that_was_kept_needs_no_translation() -> None:
    phases = [{"epochs": 1}, {"epochs": 1, "unfreeze": {"match": "1"}, "layer_decay": 0.5}]
    spec = resolve(Spec(head="keep", cut={"drop_last": 0}, schedule=phases), seed=1)
    assert remaining.phases(spec, end_of(1), None) == spec.schedule[1:]


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_rest_of_a_phase_that_began_with_the_best_weights_goes_on_from_those_of_the_checkpoint(which: Any) -> None:
    phases = [{"epochs": 1}, {"name": "all", "unfreeze": "all", "epochs": 3, "start_from": "best"}]
    within = end_of(2, number=number_within(2, which))
    (rest,) = remaining.phases(resolve(Spec(schedule=phases), seed=1), within, PLAIN)
    assert rest == Phase(name="all", unfreeze="all", epochs=3)


@pytest.mark.parametrize("field", [{"optimizer_state": "carry"}, {"start_from": "best"}])
def test_moments_or_the_best_of_a_phase_are_not_in_a_checkpoint(field: dict[str, str]) -> None:
    phases = [{"epochs": 1}, {"epochs": 3, "unfreeze": "all", **field}]
    carried = "optimizer_state" in field
    place = end_of(2, number=number_within(2, "last")) if carried else end_of(1)
    with pytest.raises(UserError, match=next(iter(field))) as caught:
        remaining.phases(resolve(Spec(schedule=phases), seed=1), place, PLAIN)
    assert caught.value.work_code == "no_phase_before"
