"""What a worker tells: progress, results, failures."""

from typing import Any

import pytest

from app.domain.errors import Failure, LeaseLostError, PlatformError
from app.domain.exports import Export
from app.domain.model import ModelOptions
from app.domain.progress import PhaseStarted, StageStarted, StepFinished, WeightsKept
from app.services import claims, history, jobs, models, reports
from app.services.context import Services
from app.services.sweep import sweep
from app.storage import checkpoints as stored_checkpoints
from app.storage.paging import PageQuery

EVERYTHING = PageQuery(limit=100, order="asc")


def test_a_stage_is_an_event_and_part_of_the_history(world: Any, services: Services) -> None:
    claim = world.claim()
    _tell(services, claim, StageStarted(stage="loading_source"), StageStarted(stage="training", number=2))
    job = world.get(claim)
    assert job.stage == "training"
    assert [(record.stage, record.attempt) for record in job.stage_history] == [("loading_source", 1), ("training", 1)]
    assert job.stage_history[0].finished_at is not None
    assert job.stage_history[1].finished_at is None
    assert [event.data["stage"] for event in _events(services, claim) if event.type == "stage"] == [
        "loading_source",
        "training",
    ]


def test_an_epoch_is_a_row_an_event_and_progress(world: Any, services: Services) -> None:
    claim = world.claim()
    _tell(services, claim, world.epoch(1), world.epoch(2))
    rows = history.metrics(services, "default", claim.identifier, EVERYTHING).items
    assert [(row.number, row.attempt, row.step, row.metrics["loss"]) for row in rows] == [
        (1, 1, 10, 1.0),
        (2, 1, 20, 0.5),
    ]
    told = [event for event in _events(services, claim) if event.type == "metrics"]
    assert [event.level for event in told] == ["info", "info"]
    assert told[1].data["metrics"] == {"loss": 0.5, "seconds": 2.0}
    assert told[1].message == "Phase 'head', epoch 2 of 4: loss 0.5"
    job = world.get(claim)
    assert job.progress == pytest.approx(2 / 20)  # the textbook schedule has 4 + 16 epochs
    assert job.eta_seconds == pytest.approx(18 * 2.0)
    assert job.phase == world.place(2)


def test_the_first_epoch_of_a_phase_is_no_measure_once_there_are_others(world: Any, services: Services) -> None:
    claim = world.claim()
    _tell(services, claim, world.epoch(1, seconds=30.0))
    assert world.get(claim).eta_seconds == pytest.approx(19 * 30.0)
    _tell(services, claim, world.epoch(2, seconds=1.0), world.epoch(3, seconds=3.0))
    assert world.get(claim).eta_seconds == pytest.approx(17 * 2.0)


def test_steps_move_the_columns_only(world: Any, services: Services) -> None:
    claim = world.claim()
    _tell(services, claim, world.epoch(1))
    before = len(_events(services, claim))
    _tell(services, claim, StepFinished(phase=world.place(2), step=1, steps=4))
    job = world.get(claim)
    assert job.progress == pytest.approx(1.25 / 20)
    assert job.phase is not None
    assert job.phase.epoch == 2
    assert len(_events(services, claim)) == before


def test_a_phase_that_ended_has_an_event_with_its_proof_and_a_checkpoint(world: Any, services: Services) -> None:
    claim = world.claim()
    started = PhaseStarted(phase=world.place(1), trainable_parameters=5, frozen_parameters=60)
    artifact = world.artifact("phase-1.weights.h5")
    told = [started, world.epoch(4), world.phase_end()]
    reports.progress(services, claim, told, checkpoints={"c/1.weights": artifact})
    (checkpoint,) = history.checkpoints(services, "default", claim.identifier, EVERYTHING).items
    assert (checkpoint.artifact, checkpoint.step, checkpoint.metrics["loss"]) == (artifact, 40, 0.25)
    first, last = [event for event in _events(services, claim) if event.type == "phase"]
    assert first.data["trainable_parameters"] == 5
    assert last.data["proof"]["held"] is True  # type: ignore[index]
    assert last.data["checkpoint"] == checkpoint.id


def test_an_early_end_of_a_phase_skips_its_epochs(world: Any, services: Services) -> None:
    claim = world.claim()
    told = [world.epoch(2), world.phase_end()]
    reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact()})
    assert world.get(claim).progress == pytest.approx(4 / 20)


def test_a_phase_without_its_checkpoint_is_refused_whole(world: Any, services: Services) -> None:
    claim = world.claim()
    before = _events(services, claim)
    with pytest.raises(PlatformError, match="not uploaded"):
        _tell(services, claim, world.epoch(1), world.phase_end())
    assert _events(services, claim) == before
    assert history.metrics(services, "default", claim.identifier, EVERYTHING).items == []


def test_a_batch_that_is_told_again_changes_nothing(world: Any, services: Services) -> None:
    claim = world.claim()
    told = [
        StageStarted(stage="training"),
        StageStarted(stage="caching_features", number=2),
        StageStarted(stage="training", number=3),
        PhaseStarted(phase=world.place(1), trainable_parameters=5, frozen_parameters=60),
        StepFinished(phase=world.place(1), step=1, steps=2),
        *(world.epoch(number) for number in (1, 2, 3, 4)),
        world.phase_end(),
        PhaseStarted(phase=world.place(1, phase=2, name="all"), trainable_parameters=65, frozen_parameters=0),
        world.epoch(1, phase=2, name="all"),
    ]
    for _ in range(2):
        reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact()})
        seen = (_events(services, claim), world.get(claim).model_copy(update={"updated_at": 0}))
    first_events, first_job = seen
    reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact()})
    assert _events(services, claim) == first_events
    assert world.get(claim).model_copy(update={"updated_at": 0}) == first_job
    assert [record.stage for record in first_job.stage_history] == ["training", "caching_features", "training"]
    numbers = [row.number for row in history.metrics(services, "default", claim.identifier, EVERYTHING).items]
    assert numbers == [1, 2, 3, 4, 5]
    assert len([event for event in first_events if event.type == "metrics"]) == 5


def test_what_a_later_attempt_measures_again_is_told_once_and_its_numbers_go_on(world: Any, services: Services) -> None:
    first = world.claim()
    told = [world.epoch(1), world.epoch(2), world.phase_end()]
    reports.progress(services, first, told, checkpoints={"c/1.weights": world.artifact()})
    claims.release(services, first, charge_attempt=False)
    second = world.claim(first.job)
    assert (second.job.progress, second.job.eta_seconds) == (0, None), "without a checkpoint it begins anew"
    again = [StageStarted(stage="training"), *told, world.epoch(3)]
    reports.progress(services, second, again, checkpoints={"c/1.weights": world.artifact()})
    rows = history.metrics(services, "default", first.identifier, PageQuery(limit=100, order="asc")).items
    assert [(row.number, row.attempt, row.phase.epoch) for row in rows] == [(1, 1, 1), (2, 1, 2), (3, 2, 3)]
    assert len(history.checkpoints(services, "default", first.identifier, EVERYTHING).items) == 1
    assert len([event for event in _events(services, second) if event.type == "metrics"]) == 3
    assert [record.attempt for record in world.get(first).stage_history] == [2]


# === The end ===


def test_a_success_publishes_the_result_as_a_model(world: Any, services: Services) -> None:
    claim = world.claim(world.job(suffix="v1"))
    _tell(services, claim, StageStarted(stage="exporting"))
    job = world.succeed(claim)
    assert (job.status, job.progress, job.stage, job.eta_seconds) == ("succeeded", 1.0, None, None)
    assert job.finished_at is not None
    assert [artifact.name for artifact in job.artifacts] == ["model.keras", "report.json"]
    assert job.report == world.report(claim)
    assert job.stage_history[-1].finished_at is not None
    assert job.result_model_id is not None
    model = models.get(services, "default", job.result_model_id)
    assert (model.name, model.status, model.job_id) == ("shoes-v1", "ready", job.id)
    assert [artifact.name for artifact in model.download] == ["model.keras"]
    assert model.options.labels == ["a", "b"]
    assert job == world.get(claim)


def test_exports_belong_to_the_result_and_one_that_failed_is_told_before_the_end(
    world: Any, services: Services
) -> None:
    claim = world.claim()
    exports = [
        Export(format="onnx", status="succeeded", file="model.onnx", difference=1e-6),
        Export(format="litert", status="failed", reason="It differs."),
    ]
    job = reports.succeed_job(
        services,
        claim,
        artifacts=[world.artifact("model.onnx"), world.artifact(), world.artifact("report.json")],
        canonical=[world.artifact("config.json")],
        info=world.info(),
        report=world.report(claim).model_copy(update={"exports": exports}),
    )
    model = models.get(services, "default", str(job.result_model_id))
    assert [artifact.name for artifact in model.download] == ["model.keras", "model.onnx"]
    warning, last = _events(services, claim)[-2:]
    assert (warning.level, warning.type) == ("warn", "message")
    assert warning.message == "The export 'litert' failed: It differs."
    assert warning.data["export"]["format"] == "litert"
    assert last.type == "completed"
    assert job.report is not None
    assert job.report.exports == exports


def test_a_worker_that_lost_its_job_tells_nothing_of_its_exports(world: Any, services: Services) -> None:
    claim = world.claim()
    world.succeed(claim)
    before = _events(services, claim)
    failed = Export(format="onnx", status="failed", reason="no")
    with pytest.raises(LeaseLostError):
        reports.succeed_job(
            services,
            claim,
            artifacts=[world.artifact()],
            canonical=[],
            info=world.info(),
            report=world.report(claim).model_copy(update={"exports": [failed]}),
        )
    assert _events(services, claim) == before


def test_a_result_may_be_the_source_of_the_next_job(world: Any) -> None:
    job = world.succeed(world.claim())
    assert world.job(model=job.result_model_id).status == "queued"


def test_a_result_without_a_model_file_is_refused(world: Any, services: Services) -> None:
    claim = world.claim()
    with pytest.raises(PlatformError, match=r"must hold 'model.keras'"):
        reports.succeed_job(services, claim, artifacts=[], canonical=[], info=world.info(), report=world.report(claim))
    assert world.get(claim).status == "running"


def test_every_end_is_told_by_one_last_event(world: Any, services: Services) -> None:
    failure = Failure(error_class="capacity", code="out_of_memory", message="8 GiB were not enough.", phase="all")
    ends = {
        "succeeded": world.succeed,
        "failed": lambda claim: reports.fail_job(services, claim, failure),
        "cancelled": lambda claim: reports.cancel_job(services, claim),
    }
    for status, end in ends.items():
        claim = world.claim()
        assert end(claim).status == status
        told = _events(services, claim)
        assert [event.number for event in told] == list(range(1, len(told) + 1))
        assert [event.type for event in told].count("completed") == 1
        assert told[-1].type == "completed"
        assert told[-1].data["status"] == status
        assert (told[-1].level == "error") is (status == "failed")
    assert world.get(claim).error is None


def test_a_failure_is_kept_as_it_was_told(world: Any, services: Services) -> None:
    failure = Failure(error_class="user", code="x", message="\x00 is no text \ud800", param="cut", phase="head")
    job = reports.fail_job(services, world.claim(), failure)
    assert job.error is not None
    assert (job.error.code, job.error.param, job.error.phase) == ("x", "cut", "head")
    stored = jobs.get(services, "default", job.id)
    assert "is no text" in stored.model_dump_json()
    assert history.events_since(services, "default", job.id, after_number=0)[-1].model_dump_json()


def _tell(services: Services, claim: claims.JobClaim, *told: Any) -> None:
    reports.progress(services, claim, told, checkpoints={})


def _events(services: Services, claim: claims.JobClaim) -> Any:
    return history.events_since(services, "default", claim.identifier, after_number=0)


# === Weights of a phase that failed ===


def test_the_best_weights_of_a_phase_that_diverged_stay_and_can_be_a_source(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [world.epoch(1), world.epoch(2)], checkpoints={})
    kept = WeightsKept(phase=world.place(2), step=20, metrics={"val_loss": 0.2}, checkpoint="c/best.safetensors")
    files = {kept.checkpoint: world.artifact("best.safetensors")}
    for _ in range(2):  # a batch may come twice
        reports.progress(services, claim, [kept], checkpoints=files)
    world.keep(claim, 1, step=20)
    reports.fail_job(services, claim, Failure(error_class="user", code="diverged", message="It diverged."))
    sweep(services)
    (found,) = history.checkpoints(services, "default", claim.identifier, PageQuery(limit=10)).items
    assert (found.kind, found.step, found.phase.epoch, found.metrics) == ("phase", 20, 2, {"val_loss": 0.2})
    assert found.artifact == files[kept.checkpoint]
    model = models.register_named(services, "default", reference=found.id, name=None, options=ModelOptions())
    assert models.restorable(services, "default", found.id).weights == found.artifact
    assert model.job_id == claim.identifier


def test_a_phase_that_ends_after_all_has_its_own_weights(world: Any, services: Services) -> None:
    claim = world.claim()
    kept = WeightsKept(phase=world.place(2), step=20, metrics={"val_loss": 0.2}, checkpoint="c/best.safetensors")
    ended = world.phase_end()
    files = {kept.checkpoint: world.artifact("best.safetensors"), ended.checkpoint: world.artifact("1.safetensors")}
    reports.progress(services, claim, [kept, ended], checkpoints=files)
    found = history.checkpoints(services, "default", claim.identifier, PageQuery(limit=10)).items
    assert {each.artifact.name for each in found} == {"best.safetensors", "1.safetensors"}
    with services.db.read() as session:
        newest = stored_checkpoints.newest_weights(session, "default", claim.identifier)
    assert newest is not None
    assert newest.artifact.name == "1.safetensors", "a fork that says nothing starts from no other"
