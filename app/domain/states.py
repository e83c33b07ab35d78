"""The life of a job, and of the models and datasets that must be checked before a job can use them.

`MOVES` is the one place where the life of a job is written down: `jobs.move` takes no other move, and the table and the
diagram of `docs/jobs.md` are made of it (`python -m app.domain.lifelines`).

A terminal status is never left: trying again makes a new job. A wish to cancel or to pause is a column
(`cancel_requested_at`, `pause_requested_at`), not a status. An attempt is lost when its worker or its training process
is; `MAX_ATTEMPTS` of them without a new checkpoint in between fail the job.

    Model, dataset
    ---------------------------------------------------------------------------------------------
    validating -> ready | failed     by the worker that holds the lease (or the sweeper: attempts used up)
"""

from dataclasses import dataclass
from typing import Literal, get_args

JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
AssetStatus = Literal["validating", "ready", "failed"]
Priority = Literal["low", "normal", "high"]

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})
UNFINISHED: tuple[JobStatus, ...] = tuple(status for status in STATUSES if status not in TERMINAL)
FIRST: tuple[JobStatus, ...] = ("validating_files", "queued")
"""What a job begins as: with files that are still to be checked, or without."""


@dataclass(frozen=True)
class Move:
    """One way from a status to another, as a sentence: `who` does it, `when` it is due, and only as `guard` says."""

    old: JobStatus
    new: JobStatus
    who: str
    when: str
    guard: str
    """What the statement requires of the row besides its old status."""


_API, _SWEEPER, _HOLDER = "API", "sweeper", "worker that holds the lease"
_ROOMY = "sweeper of a worker with room"
_FENCE = "number of the attempt, lease not run out"
_RAN_OUT = "number of the attempt, lease run out"
_EITHER, _EITHER_FENCE = f"{_HOLDER}, or sweeper", "number of the attempt; lease not run out, or run out"
_UNCHARGED = "it gives the job back, uncharged: it stops, its store is away, or a pause was withdrawn late"
_NOTHING = "nothing else"
_OVERDUE = "`deadline_at` is over"

MOVES: tuple[Move, ...] = (
    Move("validating_files", "queued", "whoever decides its last file", "its files are ready and fit", _NOTHING),
    Move("validating_files", "failed", "whoever decides a file", "a file cannot be used, or does not fit", _NOTHING),
    Move("validating_files", "failed", _SWEEPER, "its deadline is over", _OVERDUE),
    Move("validating_files", "cancelled", _API, "it is cancelled, at once", _NOTHING),
    Move("queued", "running", "worker", "it claims the job: attempt + 1, a lease", "no wish to cancel, deadline ahead"),
    Move("queued", "paused", _API, "it is paused, at once", _NOTHING),
    Move("queued", "failed", _SWEEPER, "its deadline is over", _OVERDUE),
    Move("queued", "cancelled", _API, "it is cancelled, at once", _NOTHING),
    Move("queued", "cancelled", "worker", "it finds a wish to cancel instead of a job", "a wish to cancel"),
    Move("running", "succeeded", _HOLDER, "the result is published", _FENCE),
    Move("running", "failed", _HOLDER, "it failed, with its reason", _FENCE),
    Move("running", "failed", _EITHER, "`max_seconds` are used up", _EITHER_FENCE),
    Move("running", "failed", _EITHER, "the attempt was the last that may be lost", _EITHER_FENCE),
    Move("running", "cancelled", _EITHER, "somebody wants it cancelled", _EITHER_FENCE),
    Move("running", "paused", _EITHER, "somebody wants it paused", f"{_EITHER_FENCE}; no wish to cancel"),
    Move("running", "queued", _HOLDER, _UNCHARGED, f"{_FENCE}; no wish"),
    Move("running", "paused", _HOLDER, "the disk is full", f"{_FENCE}; no wish to cancel"),
    Move("running", "queued", _HOLDER, "its process crashed, was killed or hung", f"{_FENCE}; no wish"),
    Move("running", "queued", _HOLDER, "memory ran out: once, with smaller batches", f"{_FENCE}; no wish"),
    Move("running", "queued", _SWEEPER, "the worker was not heard of", f"{_RAN_OUT}; no wish"),
    Move("paused", "queued", _API, "it is resumed, at once", _NOTHING),
    Move("paused", "queued", _ROOMY, "it was set aside, and there is room again", "no wish to pause, its wait is over"),
    Move("paused", "failed", _SWEEPER, "its deadline is over", _OVERDUE),
    Move("paused", "cancelled", _API, "it is cancelled, at once", _NOTHING),
)

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    status: frozenset(move.new for move in MOVES if move.old == status) for status in STATUSES
}

MAX_ATTEMPTS = 3

Action = Literal["cancel", "pause", "resume", "retry", "fork"]

ACTIONS: dict[JobStatus, tuple[Action, ...]] = {
    "validating_files": ("cancel",),
    "queued": ("cancel", "pause", "fork"),
    "running": ("cancel", "pause", "fork"),
    "paused": ("cancel", "resume", "fork"),
    "succeeded": ("fork",),
    "failed": ("retry", "fork"),
    "cancelled": ("retry", "fork"),
}
"""What a person may ask of a job. `retry` and `fork` make new jobs; `fork` needs the end of a phase to start from."""


def allowed_actions(status: JobStatus) -> list[str]:
    """What a person may ask of a job in this status."""
    return list(ACTIONS[status])


SERVED: tuple[Priority, ...] = ("high", "normal", "low")
"""In which order; the database holds the place in it, as that sorts."""


def rank_of(priority: Priority) -> int:
    """0 is served first."""
    return SERVED.index(priority)
