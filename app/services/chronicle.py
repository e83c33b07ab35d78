"""From what a running job tells to its row, its events, its metrics and its checkpoints.

The caller holds the job's row. Told twice is told once: a batch that a worker sends again, because it could not know
whether the first one arrived, changes nothing more.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from sqlalchemy.orm import Session

from app.domain.artifacts import Artifact
from app.domain.errors import PlatformError
from app.domain.ids import new_id
from app.domain.job import Checkpoint, EpochMetrics, number_within
from app.domain.progress import (
    CheckpointRefused,
    CheckpointWritten,
    EpochFinished,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Progress,
    Resumed,
    Stage,
    StageStarted,
    StepFinished,
    WeightsKept,
)
from app.domain.spec import ResolvedSpec, total_epochs
from app.services import resumption
from app.storage import checkpoints, events, jobs, metrics
from app.storage.events import News
from app.storage.rows import dumped
from app.storage.tables import JobRow

ALMOST_DONE = 0.99
"""The most that training alone may claim; the rest is evaluation and export."""

STAGES: Mapping[Stage, str] = {
    "loading_source": "Loading the source and the dataset.",
    "caching_features": "Running the frozen layers once.",
    "training": "Training.",
    "evaluating": "Evaluating on the test split.",
    "exporting": "Exporting the result.",
}


def enter(session: Session, job: JobRow, told: Sequence[Progress], artifacts: Mapping[str, Artifact]) -> list[str]:
    """Enter a batch. `artifacts` are the uploaded files of checkpoints, by their paths in the working folder.

    Returns the sha256 of blobs that nothing refers to any more once this is committed.
    """
    spec = ResolvedSpec.model_validate(job.spec)
    stale: list[str] = []
    for each in told:
        match each:
            case StageStarted():
                _stage_started(session, job, each)
            case PhaseStarted():
                _phase_started(session, job, each)
            case StepFinished():
                _step_finished(job, spec, each)
            case EpochFinished():
                _epoch_finished(session, job, spec, each)
            case PhaseFinished() | WeightsKept():
                _weights_told(session, job, spec, each, artifacts)
            case CheckpointWritten():
                stale += resumption.kept(session, job, each, artifacts)
            case Resumed():
                resumption.resumed(session, job, each)
            case CheckpointRefused():
                resumption.refused(session, job, each)
    session.flush()
    return stale


def go_on(session: Session, job: JobRow, checkpoint: Checkpoint) -> None:
    """An attempt begins that will go on from this checkpoint: so far the job is. The caller holds its row."""
    spec = ResolvedSpec.model_validate(job.spec)
    job.phase = dumped(checkpoint.phase)
    ended = checkpoint.phase.epoch - (0 if checkpoint.metrics else 1)
    _set_progress(job, spec, _epochs_before(spec, checkpoint.phase) + max(0, ended))
    session.flush()


def _stage_started(session: Session, job: JobRow, told: StageStarted) -> None:
    if sum(each["attempt"] == job.attempt for each in job.stage_history) >= told.number:
        return
    jobs.close_stage(job)
    record = {"stage": told.stage, "attempt": job.attempt, "started_at": job.updated_at, "finished_at": None}
    job.stage, job.stage_history = told.stage, [*job.stage_history, record]
    data = {"stage": told.stage, "attempt": job.attempt}
    events.append(session, job, [News("stage", STAGES.get(told.stage, f"Stage {told.stage}."), data=data)])


def _phase_started(session: Session, job: JobRow, told: PhaseStarted) -> None:
    if _goes_on(job, told.phase):
        job.phase = dumped(told.phase)
    if job.phases_started >= told.phase.index:
        return
    job.phases_started = told.phase.index
    message = (
        f"Phase '{told.phase.name}' started: {told.trainable_parameters:,} weights train, "
        f"{told.frozen_parameters:,} are frozen.{_cached(told)}"
    )
    data = {**told.model_dump(mode="json", exclude={"type"}), "started": True}
    events.append(session, job, [News("phase", message, data=data)])


def _cached(told: PhaseStarted) -> str:
    if told.cache is None or not told.cache.used:
        return ""
    return f" Features of {', '.join(told.cache.boundary)} are cached."


def _step_finished(job: JobRow, spec: ResolvedSpec, told: StepFinished) -> None:
    if not _goes_on(job, told.phase):
        return
    job.phase = dumped(told.phase)
    _set_progress(job, spec, _epochs_before(spec, told.phase) + told.phase.epoch - 1 + told.step / told.steps)


def _epoch_finished(session: Session, job: JobRow, spec: ResolvedSpec, told: EpochFinished) -> None:
    if _goes_on(job, told.phase):
        job.phase = dumped(told.phase)
        _set_progress(job, spec, _epochs_before(spec, told.phase) + told.phase.epoch)
    known = metrics.of_phase(session, job.project, job.id, phase_index=told.phase.index)
    if any(epoch.phase.epoch == told.phase.epoch for epoch in known):
        return
    job.epochs_run += 1
    epoch = EpochMetrics(
        job_id=job.id,
        attempt=job.attempt,
        number=job.epochs_run,
        created_at=job.updated_at,
        phase=told.phase,
        step=told.step,
        metrics=told.metrics,
    )
    metrics.add(session, job.project, epoch)
    job.epoch_seconds = _typical_seconds([*known, epoch])
    _set_progress(job, spec, _epochs_before(spec, told.phase) + told.phase.epoch)
    events.append(session, job, [_news_of(epoch)])


def _weights_told(
    session: Session,
    job: JobRow,
    spec: ResolvedSpec,
    told: PhaseFinished | WeightsKept,
    artifacts: Mapping[str, Artifact],
) -> None:
    if isinstance(told, WeightsKept):
        _weights_kept(session, job, told, artifacts)
    else:
        _phase_finished(session, job, spec, told, artifacts)


def _phase_finished(
    session: Session, job: JobRow, spec: ResolvedSpec, told: PhaseFinished, artifacts: Mapping[str, Artifact]
) -> None:
    index = told.phase.index
    if checkpoints.has_weights(session, job.project, job.id, number=index):
        return
    epochs = metrics.of_phase(session, job.project, job.id, phase_index=index)
    artifact = _uploaded(told, artifacts)
    step, found = (epochs[-1].step, epochs[-1].metrics) if epochs else (0, {})
    checkpoint = _of_phase(job, told, artifact, number=index, step=step, metrics_then=found)
    checkpoints.add(session, job.project, checkpoint)
    _set_progress(job, spec, _epochs_before(spec, told.phase) + spec.schedule[index - 1].epochs)
    events.append(session, job, [_news_of_end(told, checkpoint)])


def _weights_kept(session: Session, job: JobRow, told: WeightsKept, artifacts: Mapping[str, Artifact]) -> None:
    """Weights of a phase that will not end; where that is told again, the first ones stay."""
    number = number_within(told.phase.index, told.which)
    if checkpoints.has_weights(session, job.project, job.id, number=number):
        return
    artifact = _uploaded(told, artifacts)
    checkpoint = _of_phase(job, told, artifact, number=number, step=told.step, metrics_then=told.metrics)
    checkpoints.add(session, job.project, checkpoint)
    where = (
        f"after epoch {told.phase.epoch}" if told.metrics else f"after step {told.step}, in epoch {told.phase.epoch},"
    )
    message = f"The weights {where} of phase '{told.phase.name}' are kept as {checkpoint.id}."
    data = {**told.model_dump(mode="json", include={"phase", "step", "metrics"}), "checkpoint": checkpoint.id}
    events.append(session, job, [News("message", message, data=data)])


def _of_phase(
    job: JobRow,
    told: PhaseFinished | WeightsKept,
    artifact: Artifact,
    *,
    number: int,
    step: int,
    metrics_then: Mapping[str, float],
) -> Checkpoint:
    """Weights of a phase alone: nothing goes on from them, and new jobs may begin with them."""
    return Checkpoint(
        id=new_id("ckpt"),
        kind="phase",
        job_id=job.id,
        created_at=job.updated_at,
        attempt=job.attempt,
        number=number,
        step=step,
        phase=told.phase,
        metrics=dict(metrics_then),
        artifact=artifact,
        files=[],
    )


def _uploaded(told: PhaseFinished | WeightsKept, artifacts: Mapping[str, Artifact]) -> Artifact:
    if told.checkpoint not in artifacts:
        message = f"The checkpoint '{told.checkpoint}' of phase '{told.phase.name}' was told of, but not uploaded."
        raise PlatformError(message, code="missing_checkpoint", phase=told.phase.name)
    return artifacts[told.checkpoint]


# === Words ===


def _news_of(epoch: EpochMetrics) -> News:
    shown = [name for name in epoch.metrics if name not in {"learning_rate", "seconds"}]
    figures = ", ".join(f"{name} {epoch.metrics[name]:.4g}" for name in shown)
    message = f"Phase '{epoch.phase.name}', epoch {epoch.phase.epoch} of {epoch.phase.epochs}: {figures}"
    data = epoch.model_dump(mode="json", include={"number", "attempt", "phase", "step", "metrics"})
    return News("metrics", message, data=data)


def _news_of_end(told: PhaseFinished, checkpoint: Checkpoint) -> News:
    proof, early = told.proof, " early" if told.stopped_early else ""
    held = "did not change" if proof.held else "CHANGED"
    message = (
        f"Phase '{told.phase.name}' ended{early} after {told.phase.epoch} epochs: {proof.frozen_variables} frozen "
        f"variables {held}, {proof.moved_variables} of {proof.trained_variables} trained ones did."
    )
    data = {**told.model_dump(mode="json", include={"phase", "stopped_early", "proof"}), "checkpoint": checkpoint.id}
    return News("phase", message, data=data)


# === Progress ===


def _goes_on(job: JobRow, phase: PhaseProgress) -> bool:
    """Whether this is not behind what was told before."""
    return job.phase is None or (phase.index, phase.epoch) >= (job.phase["index"], job.phase["epoch"])


def _epochs_before(spec: ResolvedSpec, phase: PhaseProgress) -> int:
    return total_epochs(spec.schedule[: phase.index - 1])


def _set_progress(job: JobRow, spec: ResolvedSpec, epochs_done: float) -> None:
    """Early stopping makes the rest shorter than told here; nobody knows it beforehand. Never backwards."""
    total = total_epochs(spec.schedule)
    job.progress = max(job.progress, min(epochs_done / total, ALMOST_DONE))
    if job.epoch_seconds is not None:
        job.eta_seconds = job.epoch_seconds * max(total - epochs_done, 0.0)


def _typical_seconds(epochs: Sequence[EpochMetrics]) -> float | None:
    """Of an epoch of this phase. The first one traces and compiles, so it counts only while it is alone."""
    seconds = [epoch.metrics["seconds"] for epoch in epochs if "seconds" in epoch.metrics]
    return median(seconds[1:] or seconds) if seconds else None
