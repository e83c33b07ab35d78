"""What a running job tells of its interruptions: what it can go on from, and that it did.

The caller holds the job's row.
"""

from collections.abc import Mapping

from sqlalchemy.orm import Session

from app.domain.artifacts import Artifact
from app.domain.ids import new_id
from app.domain.job import Checkpoint
from app.domain.progress import CheckpointRefused, CheckpointWritten, Resumed, ResumeFidelity
from app.storage import checkpoints, events
from app.storage.events import News
from app.storage.tables import JobRow

RESUMED = "resumed"
REFUSED = "checkpoint_refused"
LOOKED_BACK = 10
"""Events of a type that are looked at to see whether one was told before; an attempt tells fewer."""


def kept(session: Session, job: JobRow, told: CheckpointWritten, artifacts: Mapping[str, Artifact]) -> list[str]:
    """Enter a checkpoint; sha256 of the blobs of those that it supersedes.

    One whose files were not uploaded, because a newer one was there already, counts for nothing.
    """
    paths = [f"{told.folder}/{name}" for name in told.files]
    if not all(path in artifacts for path in paths) or _known(session, job, told):
        return []
    _note_fidelity(job, told.fidelity)
    if told.step > checkpoints.furthest_step(session, job.project, job.id, before_attempt=job.attempt):
        job.lost_attempts = job.times_full = 0
    checkpoint = Checkpoint(
        id=new_id("ckpt"),
        kind="resume",
        job_id=job.id,
        created_at=job.updated_at,
        attempt=job.attempt,
        number=told.number,
        step=told.step,
        phase=told.phase,
        metrics=told.metrics,
        artifact=None,
        files=[artifacts[path] for path in paths],
    )
    checkpoints.add(session, job.project, checkpoint)
    return checkpoints.remove_superseded(session, job.project, job.id)


def _known(session: Session, job: JobRow, told: CheckpointWritten) -> bool:
    newest = checkpoints.resumable(session, job.project, job.id)[:1]
    return any((each.attempt, each.number) >= (job.attempt, told.number) for each in newest)


def resumed(session: Session, job: JobRow, told: Resumed) -> None:
    """Tell from where the attempt goes on, once; again if it turns out that more is different."""
    data = {**told.model_dump(mode="json", exclude={"type"}), "attempt": job.attempt}
    before = events.newest_of_type(session, job.project, job.id, RESUMED, limit=LOOKED_BACK)
    if any(event.data == data for event in before):
        return
    _note_fidelity(job, told.fidelity)
    message = (
        f"Attempt {job.attempt} goes on after step {told.step}, in phase '{told.phase.name}', epoch {told.phase.epoch} "
        f"of {told.phase.epochs}: {_promise(told)}."
    )
    events.append(session, job, [News(RESUMED, message, data=data)])


def refused(session: Session, job: JobRow, told: CheckpointRefused) -> None:
    """Tell that a checkpoint could not be used, once."""
    data = {"attempt": job.attempt, "name": told.name}
    before = events.newest_of_type(session, job.project, job.id, REFUSED, limit=LOOKED_BACK)
    if any(event.data == data for event in before):
        return
    message = f"A checkpoint cannot be used, so the one before it is, if there is one: {told.reason}."
    events.append(session, job, [News(REFUSED, message, "warn", data)])


def _note_fidelity(job: JobRow, told: ResumeFidelity) -> None:
    """Once it is only nearly the same, nothing makes it exact again."""
    if job.resume_fidelity != "tolerance":
        job.resume_fidelity = told


def _promise(told: Resumed) -> str:
    if told.fidelity == "exact":
        return "exactly as if it had not been interrupted"
    because = ", ".join(told.differences) or "its device adds numbers in no fixed order"
    return f"nearly as if it had not been interrupted ({because})"
