"""What becomes of a job whose attempt failed.

the training process crashed, was killed or hung    an attempt is lost: the job waits for another one, or has failed
no room on the disk                                 paused, until a worker has room (`app.services.aside`)
out of memory                                       waits again with smaller batches, once; then it has failed
anything else                                       failed

What happened stands in an event in any case. A wish to cancel or to pause outweighs all but a failure.
"""

from sqlalchemy.orm import Session

from app.domain.adjusting import smaller_batches
from app.domain.errors import CapacityError, Failure, StorageFullError
from app.domain.spec import ResolvedSpec
from app.services import aside, attempts, overtime
from app.services.attempts import Ended
from app.services.claims import JobClaim, lost
from app.services.context import Services
from app.services.ringing import ring
from app.settings import Settings
from app.storage import aside as aside_rows
from app.storage import events, jobs, leases
from app.storage.events import News
from app.storage.rows import dumped, spec_column
from app.storage.tables import JobRow

LOST = frozenset(
    (
        *("training_process_crashed", "training_process_killed", "training_process_ended", "training_process_stalled"),
        *("process_not_started", "worker_failed"),
    )
)
"""Codes of failures that say nothing about the job: the next attempt may well get through."""
ATTEMPT_LOST = "attempt_lost"
ADJUSTED = "adjusted"


def attempt_failed(services: Services, claim: JobClaim, failure: Failure) -> attempts.Outcome:
    """Write down that an attempt failed, and what follows. Raises `LeaseLostError`."""
    with services.db.begin() as session:
        held = leases.fenced(JobRow, claim.attempt)
        row = leases.compare_and_set(session, JobRow, claim.project, claim.identifier, where=held, values={})
        ended = None if row is None else _end(session, row, failure, services.settings)
        if ended is None:
            raise lost(claim)
    ring(services, ended.hints)
    return ended.outcome


def _end(session: Session, row: JobRow, failure: Failure, settings: Settings) -> Ended | None:
    """The caller holds the row."""
    where = leases.fenced(JobRow, row.attempt)
    if failure.code in LOST:
        _tell(session, row, ATTEMPT_LOST, f"Attempt {row.attempt} was lost: {failure.message}", failure)
        return attempts.end_job(session, row.project, row.id, where=where, lost=True, because=failure)
    if failure.code == StorageFullError.code:
        wait = aside.wait_seconds(settings, times=row.times_full)
        _tell_of_full_disk(session, row, failure, wait)
        return attempts.end_job(session, row.project, row.id, where=where, lost=False, aside_seconds=wait)
    if failure.code == CapacityError.code:
        if _make_smaller(session, row, failure):
            return attempts.end_job(session, row.project, row.id, where=where, lost=False)
        failure = _too_small(row, failure)
    if failure.error_class == "budget":
        failure = overtime.named(session, row.project, row.id, failure)
    failed = jobs.move(
        session,
        row.project,
        row.id,
        old="running",
        new="failed",
        news=failure.message,
        where=where,
        values={"error": dumped(failure)},
    )
    return None if failed is None else Ended("failed")


def _tell(session: Session, row: JobRow, kind: str, message: str, failure: Failure) -> None:
    data = {"attempt": row.attempt, "error": dumped(failure)}
    events.append(session, row, [News(kind, message, "warn", data)])


def _tell_of_full_disk(session: Session, row: JobRow, failure: Failure, wait_seconds: float) -> None:
    message = (
        f"{failure.message} The job is set aside and resumed when a worker has room, in {wait_seconds:.0f} s at the "
        "earliest, or at once if somebody resumes it: it goes on where it was."
    )
    data = {"attempt": row.attempt, "error": dumped(failure), "wait_seconds": wait_seconds}
    events.append(session, row, [News(aside_rows.STORAGE_FULL, message, "error", data)])


# === Smaller batches ===


def _make_smaller(session: Session, row: JobRow, failure: Failure) -> bool:
    """Have the next attempt take fewer examples at once; `False`: it was done before, or cannot be."""
    smaller = smaller_batches(ResolvedSpec.model_validate(row.spec))
    if smaller is None:
        return False
    row.spec = spec_column(smaller)
    row.resume_fidelity = "tolerance"  # with enough memory, the job would have ended in other last bits
    adjustment = smaller.adjustments[-1]
    factor = adjustment.batch_size_before // adjustment.batch_size
    same = (
        "The optimizer sees the same batches."
        if adjustment.comparable
        else "BatchNormalization trains, on mean and variance of the smaller batches: the result is not comparable "
        "with that of a job which had enough memory."
    )
    message = (
        f"Memory ran out, so the job is tried once more with batches of {adjustment.batch_size} examples instead of "
        f"{adjustment.batch_size_before}, and {factor} times as many of them for each step of the optimizer. {same}"
    )
    data = {"attempt": row.attempt, "adjustment": dumped(adjustment), "error": dumped(failure)}
    events.append(session, row, [News(ADJUSTED, message, "warn", data)])
    return True


def _too_small(row: JobRow, failure: Failure) -> Failure:
    """Memory ran out, and there is nothing left to try."""
    spec = ResolvedSpec.model_validate(row.spec)
    if spec.adjustments:
        tried = f"batches of {spec.adjustments[0].batch_size_before} examples, and then of {spec.batch_size}"
    else:
        tried = f"batches of {spec.batch_size}, which cannot be made smaller in equal parts"
    message = f"{failure.message} Thaw tried {tried}."
    return failure.model_copy(update={"message": message})
