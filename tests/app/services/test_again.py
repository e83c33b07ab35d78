"""Retry and fork: new jobs of earlier ones, which stay as they are."""

from typing import Any, get_args

import pytest

from app.domain.again import ForkRequest, RetryRequest
from app.domain.errors import (
    CapacityError,
    Failure,
    InvalidRequestError,
    InvalidStateTransitionError,
    NotFoundError,
    UserError,
)
from app.domain.job import ForkedFrom, Job
from app.domain.model import ModelOptions
from app.domain.phases import UnfreezeLast
from app.domain.presets import PresetName
from app.domain.progress import WeightsKept
from app.domain.spec import DropLast
from app.services import again, datasets, failing, history, jobs, models, reports
from app.services.context import Services
from app.storage import assets
from app.storage.paging import PageQuery
from app.storage.tables import JobRow

BROKEN = Failure(error_class="platform", code="x", message="It broke.", retryable=True)
ADAM = {"type": "adam", "learning_rate": 0.001}


def failed(world: Any, **changes: Any) -> Job:
    return reports.fail_job(world.services, world.claim(world.job(**changes)), BROKEN)


def retry(world: Any, job: Job, **changes: Any) -> Job:
    return again.retry(world.services, "default", job.id, RetryRequest(**changes))


def fork(world: Any, job: Job, **changes: Any) -> Job:
    return again.fork(world.services, "default", job.id, ForkRequest.model_validate(changes))


# === Retry ===


def test_a_retry_is_a_new_job_that_does_the_very_same(world: Any, bell: Any) -> None:
    job = failed(world, seed=7, suffix="shoes", metadata={"a": "b"}, priority="high", max_seconds=60)
    made = retry(world, job)
    assert made.id != job.id
    assert (made.status, made.attempt.number, made.retry_of) == ("queued", 0, job.id)
    same = ("spec", "model", "training_file", "model_id", "dataset_id", "suffix", "metadata", "priority", "max_seconds")
    assert [getattr(made, name) for name in same] == [getattr(job, name) for name in same]
    assert world.get(job) == job, "what has ended stays as it ended"
    assert bell.rings[-1] == ("train", made.id, "cpu")
    first = history.events(world.services, "default", made.id, PageQuery(order="asc")).items[0]
    assert first.data["retry_of"] == job.id


def test_a_cancelled_job_may_be_retried_with_other_limits(world: Any, services: Services) -> None:
    job = jobs.request_cancel(services, "default", world.job(max_seconds=60).id)
    made = retry(world, job, max_seconds=120, priority="low")
    assert (made.max_seconds, made.priority) == (120, "low")


def test_a_deadline_is_not_kept(world: Any, services: Services) -> None:
    job = world.job(deadline_at=9e9)
    jobs.request_cancel(services, "default", job.id)
    assert job.deadline_at == 9e9
    assert retry(world, job).deadline_at is None


@pytest.mark.parametrize("status", ["validating_files", "queued", "running", "paused", "succeeded"])
def test_nothing_else_may_be_retried(world: Any, services: Services, status: str) -> None:
    job = world.job(**({"model": world.file().id} if status == "validating_files" else {}))
    if status in {"running", "succeeded"}:
        claim = world.claim(job)
        if status == "succeeded":
            world.succeed(claim)
    elif status == "paused":
        jobs.request_pause(services, "default", job.id)
    with pytest.raises(InvalidStateTransitionError, match=f"status is '{status}'") as caught:
        retry(world, job)
    assert "retry" not in caught.value.allowed_actions


def test_a_retry_checks_again_what_could_not_be_used(world: Any, services: Services) -> None:
    from app.services import claims

    job = world.job(model=world.file().id)
    claim = claims.claim_model(services, job.model_id, worker="w")
    assert claim is not None
    reports.fail_model(services, claim, BROKEN)
    assert world.get(job).status == "failed"
    made = retry(world, job)
    assert (made.status, made.model) == ("validating_files", job.model)
    assert made.model_id != job.model_id
    assert made.dataset_id == job.dataset_id


def test_a_retry_of_what_is_gone_names_it(world: Any, services: Services) -> None:
    job = failed(world)
    models.delete(services, "default", job.model_id)
    with pytest.raises(InvalidRequestError, match=job.model_id) as caught:
        retry(world, job)
    assert caught.value.problems[0].pointer == "/model"


def test_unknown_jobs_are_not_found(world: Any, services: Services) -> None:
    job = failed(world)
    for project, identifier in (("default", "ftjob-0"), ("another", job.id)):
        with pytest.raises(NotFoundError):
            again.retry(services, project, identifier, RetryRequest())
        with pytest.raises(NotFoundError):
            again.fork(services, project, identifier, ForkRequest())


def test_a_retry_begins_with_the_batches_that_were_asked_for(world: Any, services: Services) -> None:
    job = world.job(batch_size=32)
    for _ in range(2):
        failing.attempt_failed(services, world.claim(job), CapacityError("No memory.").failure())
    assert (world.get(job).spec.batch_size, world.get(job).status) == (16, "failed")
    made = retry(world, job)
    assert made.spec == job.spec
    failing.attempt_failed(services, world.claim(made), CapacityError("No memory.").failure())
    assert (world.get(made).spec.batch_size, world.get(made).status) == (16, "queued")


# === Fork ===


def forkable(world: Any, *, phases: int = 1, **changes: Any) -> tuple[Job, list[str]]:
    """A running job some of whose phases have ended, and the ids of their checkpoints."""
    claim = world.claim(world.job(**changes))
    names = [phase.name for phase in claim.job.spec.schedule]
    told = [world.phase_end(phase=index + 1, name=names[index]) for index in range(phases)]
    reports.progress(world.services, claim, told, checkpoints={"c/1.weights": world.artifact()})
    page = history.checkpoints(world.services, "default", claim.identifier, PageQuery(order="asc"))
    return world.get(claim), [each.id for each in page.items]


def test_a_fork_starts_from_the_last_phase_that_ended_with_those_that_are_left(world: Any) -> None:
    job, (head,) = forkable(world, seed=7, metadata={"a": "b"}, batch_size=8, exports=["onnx"])
    made = fork(world, job)
    assert made.forked_from == ForkedFrom(job=job.id, checkpoint=head)
    assert (made.model, made.training_file) == (head, job.dataset_id)
    assert (made.spec.cut, made.spec.head) == (DropLast(drop_last=0), "keep")
    assert made.spec.schedule == job.spec.schedule[1:]
    assert (made.spec.seed, made.spec.batch_size, made.spec.exports) == (7, 8, ["onnx"])
    assert (made.metadata, made.retry_of) == ({"a": "b"}, None)
    assert made.status == "validating_files", "the checkpoint is made a model first"
    assert world.get(job).status == "running"
    assert models.get(world.services, "default", made.model_id).reference == head


def test_what_a_fork_says_is_different_is_different_and_all_else_as_it_was(world: Any) -> None:
    job, _ = forkable(world, class_weights="balanced", label_smoothing=0.1, max_seconds=60, suffix="s")
    other = world.dataset()
    made = fork(
        world, job, seed=9, training_file=other.id, metadata={"try": "2"}, priority="high", class_weights=None,
        max_seconds=None, cache="off", schedule=[{"epochs": 3, "unfreeze": "all", "optimizer": ADAM}],
    )  # fmt: skip
    assert (made.spec.seed, made.dataset_id, made.metadata, made.priority) == (9, other.id, {"try": "2"}, "high")
    assert (made.spec.class_weights, made.max_seconds, made.spec.cache) == (None, None, "off")
    assert (made.spec.label_smoothing, made.suffix) == (0.1, "s")
    assert [(phase.name, phase.epochs) for phase in made.spec.schedule] == [("phase-1", 3)]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_fork_begins_with_the_batches_that_the_job_was_sent_with(
    world: Any, services: Services, accumulation: int
) -> None:
    phases = [{"epochs": 1}, {"epochs": 2, "unfreeze": "all", "gradient_accumulation": accumulation}]
    claim = world.claim(world.job(batch_size=32, schedule=phases))
    reports.progress(services, claim, [world.phase_end()], checkpoints={"c/1.weights": world.artifact()})
    failing.attempt_failed(services, claim, CapacityError("No memory.").failure())
    job = world.get(claim)
    assert (job.spec.batch_size, job.spec.schedule[1].gradient_accumulation) == (16, 2 * accumulation)
    said = {"epochs": 2, "unfreeze": "all"}
    for changes, batch, at_once in (
        ({}, 32, accumulation), ({"batch_size": 8}, 8, accumulation), ({"schedule": [said]}, 32, 1),
    ):  # fmt: skip
        made = fork(world, job, **changes)
        (phase,) = made.spec.schedule
        assert (made.spec.batch_size, phase.gradient_accumulation, made.spec.adjustments) == (batch, at_once, [])


def test_a_fork_of_an_earlier_phase_is_named_by_phase_or_checkpoint(world: Any) -> None:
    job, (head, everything) = forkable(world, phases=2)
    assert fork(world, job, after_phase="head").model == head
    assert fork(world, job, checkpoint=head).model == head
    with pytest.raises(InvalidRequestError, match="was the last phase") as caught:
        fork(world, job)
    assert caught.value.problems[0].pointer == "/schedule"
    assert fork(world, job, schedule="full").model == everything


def test_layers_of_the_head_go_on_training_where_they_are_counted_now(world: Any) -> None:
    head = {"layers": [{"type": "dense", "units": 3}, {"type": "dropout", "rate": 0.1}]}
    phases = [
        {"name": "a", "epochs": 1},
        {"name": "b", "epochs": 1},
        {"name": "c", "unfreeze": {"last": 1}, "epochs": 1},
        {"name": "d", "unfreeze": "all", "epochs": 1},
    ]
    job, _ = forkable(world, head=head, schedule=phases)
    unfreezes = [phase.unfreeze for phase in fork(world, job).spec.schedule]
    assert unfreezes == [UnfreezeLast(last=1), UnfreezeLast(last=2), "all"]


def test_a_fork_that_would_train_otherwise_is_refused_until_it_says_what_to_train(world: Any) -> None:
    phases = [{"epochs": 1}, {"epochs": 1}]
    job, (head,) = forkable(world, head={"layers": [{"type": "dropout", "rate": 0.5}]}, schedule=phases)
    with pytest.raises(InvalidRequestError, match="dropout would be off") as caught:
        fork(world, job)
    assert [(each.pointer, each.code) for each in caught.value.problems] == [("/schedule", "head_in_backbone")]
    assert fork(world, job, schedule=phases).model == head


@pytest.mark.parametrize("field", [{"optimizer_state": "carry"}, {"start_from": "best"}])
def test_a_phase_that_needs_more_than_weights_cannot_be_the_first(world: Any, field: dict[str, str]) -> None:
    job, _ = forkable(world, schedule=[{"epochs": 1}, {"epochs": 1, **field}])
    with pytest.raises(InvalidRequestError, match=next(iter(field))) as caught:
        fork(world, job)
    assert caught.value.problems[0].code == "no_phase_before"


def failed_with_weights(world: Any) -> Job:
    """In its second phase."""
    claim = world.claim()
    reports.progress(world.services, claim, [world.phase_end()], checkpoints={"c/1.weights": world.artifact()})
    return reports.fail_job(world.services, claim, BROKEN)


@pytest.mark.parametrize("gone", ["model", "dataset"])
def test_a_fork_from_weights_that_can_be_no_model_any_more_names_what_was_deleted(
    world: Any, services: Services, gone: str
) -> None:
    job = failed_with_weights(world)
    (head,) = (each.id for each in history.checkpoints(services, "default", job.id, PageQuery()).items)
    identifier = getattr(job, f"{gone}_id")
    (models if gone == "model" else datasets).delete(services, "default", identifier)
    other = {} if gone == "model" else {"training_file": world.dataset().id}
    with pytest.raises(InvalidRequestError, match=f"deleted: '{identifier}'") as caught:
        fork(world, job, **other)
    assert [(each.pointer, each.code) for each in caught.value.problems] == [("/model", "checkpoint_incomplete")]
    with pytest.raises(InvalidRequestError, match=identifier):
        world.job(model=head)
    with pytest.raises(UserError, match=identifier):
        models.register_named(services, "default", reference=head, name=None, options=ModelOptions())


def test_a_fork_of_weights_that_are_a_model_already_needs_nothing_else(world: Any, services: Services) -> None:
    job = failed_with_weights(world)
    world.finish_model(fork(world, job).model_id, world.info(output_shape=[None, 1]))
    models.delete(services, "default", job.model_id)
    assert fork(world, job).status == "queued"


def test_what_a_fork_is_made_of_is_held_until_it_is_there(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = forkable(world)
    held, hold = [], assets.hold
    monkeypatch.setattr(assets, "hold", lambda *about: held.append(about[-1]) or hold(*about))
    fork(world, job, training_file=world.dataset().id)
    assert {job.model_id, job.dataset_id} <= set(held)


def test_a_fork_from_nowhere_is_told_what_there_is(world: Any) -> None:
    job, (head,) = forkable(world)
    other, (foreign,) = forkable(world)
    for field, value, known in (("after_phase", "all", ["head"]), ("checkpoint", foreign, [head])):
        with pytest.raises(InvalidRequestError) as caught:
            fork(world, job, **{field: value})
        (problem,) = caught.value.problems
        assert (problem.pointer, problem.allowed) == (f"/{field}", known)
    assert fork(world, other).model == foreign


def test_a_job_none_of_whose_phases_has_ended_cannot_be_forked(world: Any) -> None:
    with pytest.raises(InvalidStateTransitionError, match="none of its phases has ended") as caught:
        fork(world, failed(world))
    assert caught.value.allowed_actions == ["retry"]


def test_a_fork_does_not_throw_its_weights_away(world: Any) -> None:
    job, _ = forkable(world)
    with pytest.raises(InvalidRequestError, match="from_scratch"):
        fork(world, job, schedule="from_scratch")


def test_a_retry_of_a_fork_starts_where_that_started(world: Any, services: Services) -> None:
    job, (head,) = forkable(world)
    made = fork(world, job)
    jobs.request_cancel(services, "default", made.id)
    third = retry(world, made)
    assert (third.retry_of, third.forked_from) == (made.id, ForkedFrom(job=job.id, checkpoint=head))
    assert third.model_id == made.model_id


def within(
    world: Any, which: str, *, epoch: int, metrics: dict[str, float], phase: int = 1, **spec: Any
) -> tuple[Job, str]:
    """A running job, of two phases of 4 and 16 epochs, that kept weights from within a phase, and their checkpoint."""
    claim = world.claim(world.job(**spec))
    name = claim.job.spec.schedule[phase - 1].name
    place = world.place(epoch, phase=phase, name=name)
    told = WeightsKept(which=which, phase=place, step=7, metrics=metrics, checkpoint="c/1.weights")
    ends = [world.phase_end(name=claim.job.spec.schedule[0].name)] if phase > 1 else []
    reports.progress(world.services, claim, [*ends, told], checkpoints={"c/1.weights": world.artifact()})
    page = history.checkpoints(world.services, "default", claim.identifier, PageQuery())
    return world.get(claim), page.items[0].id


@pytest.mark.parametrize(
    ("epoch", "metrics", "left"),
    [(1, {}, [4, 16]), (3, {}, [2, 16]), (3, {"loss": 1.0}, [1, 16]), (4, {"loss": 1.0}, [16])],
    ids=["in the first epoch", "in the third", "after the third", "after the last"],
)
def test_a_fork_from_within_a_phase_trains_what_was_left_of_it(
    world: Any, epoch: int, metrics: dict[str, float], left: list[int]
) -> None:
    job, kept = within(world, "last", epoch=epoch, metrics=metrics)
    made = fork(world, job)
    assert made.forked_from == ForkedFrom(job=job.id, checkpoint=kept)
    assert [phase.epochs for phase in made.spec.schedule] == left


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_whatever_phase_is_shortened_the_fork_can_be_read_and_cancelled(
    world: Any, services: Services, preset: str
) -> None:
    spec = world.job(schedule=preset).spec
    for number, phase in enumerate(spec.schedule, start=1):
        job, _ = within(world, "last", epoch=phase.epochs, metrics={}, phase=number, schedule=preset)
        made = fork(world, job)
        (left, before) = (made.spec.schedule[0], phase.learning_rate_schedule.warmup_epochs)
        assert left.epochs == 1
        if before is not None:
            assert left.learning_rate_schedule.warmup_epochs == pytest.approx(before / phase.epochs)
        assert world.get(made) == made
        assert jobs.request_cancel(services, "default", made.id).status == "cancelled"


def test_the_best_of_a_phase_that_diverged_is_forked_only_if_that_is_said(world: Any) -> None:
    job, kept = within(world, "best", epoch=2, metrics={"val_loss": 0.5}, phase=2)
    default = fork(world, job)
    assert default.forked_from is not None
    assert default.forked_from.checkpoint != kept
    said = fork(world, job, checkpoint=kept)
    assert said.forked_from == ForkedFrom(job=job.id, checkpoint=kept)
    assert [phase.epochs for phase in said.spec.schedule] == [14]


def test_weights_from_within_a_phase_are_no_end_of_it(world: Any) -> None:
    job, kept = within(world, "last", epoch=2, metrics={})
    name = job.spec.schedule[0].name
    with pytest.raises(InvalidRequestError, match="names no end of a phase") as caught:
        fork(world, job, after_phase=name)
    assert caught.value.problems[0].allowed == []
    with pytest.raises(InvalidRequestError, match="names no weights") as caught:
        fork(world, job, checkpoint="ckpt-0")
    assert caught.value.problems[0].allowed == [kept]


def test_a_deadline_that_is_over_is_refused_by_whatever_makes_a_job(world: Any) -> None:
    over = 1000.0
    job, _ = forkable(world)
    for make in (
        lambda: world.job(deadline_at=over),
        lambda: retry(world, failed(world), deadline_at=over),
        lambda: fork(world, job, deadline_at=over),
    ):
        with pytest.raises(InvalidRequestError, match="is over") as caught:
            make()
        assert [problem.pointer for problem in caught.value.problems] == ["/deadline_at"]


def test_the_share_of_a_key_is_that_of_whoever_asks(world: Any, services: Services) -> None:
    job, _ = forkable(world)
    for made in (
        again.retry(services, "default", failed(world).id, RetryRequest(), api_key_id="key-x"),
        again.fork(services, "default", job.id, ForkRequest(), api_key_id="key-x"),
    ):
        with services.db.read() as session:
            row = session.get(JobRow, made.id)
            assert row is not None
            assert row.api_key_id == "key-x"


def test_a_fork_that_names_two_places_is_no_request() -> None:
    with pytest.raises(ValueError, match="not both"):
        ForkRequest(checkpoint="ckpt-1", after_phase="head")
    with pytest.raises(ValueError, match="differ"):
        ForkRequest.model_validate({"schedule": [{"name": "a", "epochs": 1}, {"name": "a", "epochs": 1}]})
    with pytest.raises(ValueError, match="no phase before"):
        ForkRequest.model_validate({"schedule": [{"epochs": 1, "optimizer_state": "carry"}]})
