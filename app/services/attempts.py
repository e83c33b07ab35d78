"""How an attempt ends that did not finish: its worker gave it back, or was not heard of until the lease ran out.

cancel was requested                  -> cancelled
its time is used up                   -> failed, class budget, code time_budget_exceeded
too many were lost                    -> failed, class platform: worker_lost, or why the last one was lost
pause was requested, or a disk is full -> paused
otherwise                             -> waits again
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import Session

from app.domain.errors import Failure
from app.domain.overtime import OF_ATTEMPTS
from app.domain.states import MAX_ATTEMPTS
from app.services import overtime, waiting
from app.services.ringing import Hint
from app.storage import aside, assets, jobs, leases
from app.storage.assets import AssetRow
from app.storage.leases import AnyLeased
from app.storage.rows import dumped
from app.storage.tables import Asset, JobRow

Condition = Sequence[ColumnElement[bool]]


Outcome = Literal["waits", "failed", "cancelled", "paused"]


@dataclass(frozen=True)
class Ended:
    """What became of it, and what is to be rung after the commit."""

    outcome: Outcome
    hints: list[Hint] = field(default_factory=list)


def end(
    session: Session, row: AnyLeased, project: str, identifier: str, *, where: Condition, lost: bool
) -> Ended | None:
    """End an attempt that is as `where` says; `None`: it is not, somebody else was first.

    The row is held first: of moves that exclude each other none would find it if a wish came between two of them.
    """
    leases.lock(session, row, project, identifier)
    if issubclass(row, Asset):
        return _end_check(session, row, project, identifier, where=where, lost=lost)
    return end_job(session, project, identifier, where=where, lost=lost)


def end_job(
    session: Session,
    project: str,
    identifier: str,
    *,
    where: Condition,
    lost: bool,
    because: Failure | None = None,
    aside_seconds: float | None = None,
) -> Ended | None:
    """End an attempt at a job; `None`: it is not as `where` says, somebody else was first.

    `because`: why it was lost, where that is known. `aside_seconds`: the job is paused, whether somebody asked for it
    or not, and waits at least so long before Thaw resumes it. The caller holds the row. The moves below have conditions
    that exclude each other: at most one finds it as it must be.
    """
    asked, enough = JobRow.cancel_requested_at.is_not(None), _enough(JobRow, lost=lost)
    used_up = jobs.is_used_up(session, project, identifier)
    pause = JobRow.pause_requested_at.is_not(None) if aside_seconds is None else true()
    until = {} if aside_seconds is None else aside.waiting(aside_seconds)
    cancelled = jobs.move(
        session, project, identifier, old="running", new="cancelled", news="The job was cancelled.",
        where=[*where, asked],
    )  # fmt: skip
    if cancelled is not None:
        return Ended("cancelled")
    failure = _no_more_attempts(identifier, because)
    if used_up:
        failure = overtime.named(session, project, identifier, OF_ATTEMPTS)
    failed = jobs.move(
        session, project, identifier, old="running", new="failed", news=failure.message,
        where=[*where, ~asked, true() if used_up else enough], values={"error": dumped(failure)},
    )  # fmt: skip
    if failed is not None:
        return Ended("failed")
    paused = jobs.move(
        session, project, identifier, old="running", new="paused", news="The job is paused.",
        where=[*where, ~asked, ~enough, pause],
        values={**leases.given_back(JobRow, lost=lost), **until},
    )  # fmt: skip
    if paused is not None:
        return Ended("paused")
    again = jobs.move(
        session, project, identifier, old="running", new="queued",
        news=_news_of_waiting(because, lost=lost),
        where=[*where, ~asked, ~enough, ~pause], values=leases.given_back(JobRow, lost=lost),
    )  # fmt: skip
    return None if again is None else Ended("waits", [Hint(JobRow, project, identifier)])


def _end_check(
    session: Session, row: type[AssetRow], project: str, identifier: str, *, where: Condition, lost: bool
) -> Ended | None:
    enough, failure = _enough(row, lost=lost), _worker_lost(identifier)
    if assets.set_failed(session, row, project, identifier, where=[*where, enough], failure=failure) is not None:
        return Ended("failed", waiting.move_on(session, project, identifier))
    values = leases.given_back(row, lost=lost)
    again = leases.compare_and_set(session, row, project, identifier, where=[*where, ~enough], values=values)
    return None if again is None else Ended("waits", [Hint(row, project, identifier)])


def _enough(row: AnyLeased, *, lost: bool) -> ColumnElement[bool]:
    """Whether this attempt, if it counts, was the last that may be lost."""
    return row.lost_attempts + 1 >= MAX_ATTEMPTS if lost else row.lost_attempts < 0


def _news_of_waiting(because: Failure | None, *, lost: bool) -> str:
    if not lost:
        return "The worker gave the job back."
    who = "worker" if because is None else "training process"
    return f"The {who} was lost; the job waits for another one."


def _no_more_attempts(identifier: str, because: Failure | None) -> Failure:
    """The failure of a job whose attempts are used up: the very reason of the last one, where it is known."""
    if because is None:
        return _worker_lost(identifier)
    message = (
        f"{because.message} {MAX_ATTEMPTS} attempts in a row were lost, and no new checkpoint was kept in between, so "
        "Thaw tries no more."
    )
    return because.model_copy(update={"message": message})


def _worker_lost(identifier: str) -> Failure:
    return Failure(
        error_class="platform",
        code="worker_lost",
        message=(
            f"The worker was lost {MAX_ATTEMPTS} times while it had '{identifier}', and no new checkpoint was kept in "
            "between, so Thaw tries no more. "
            "Its log says why, often memory. Make sure that workers stay alive, then submit again."
        ),
        retryable=True,
    )
