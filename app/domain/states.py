"""The life of a job, and of the models and datasets that must be checked before a job can use them.

    Job                                                     who moves it
    ---------------------------------------------------------------------------------------------
    validating_files -> queued       its files are ready    the service, when the last one is ready
    validating_files -> failed       a file is unusable     the service
    queued           -> running      claim, attempt + 1     a worker
    running          -> queued       lease expired          the sweeper, while attempts are left
    running          -> failed       attempts used up       the sweeper
    running          -> succeeded    result published       the worker that holds the lease
    running          -> failed       with its reason        the worker that holds the lease
    running          -> cancelled    it was asked to        the worker that holds the lease, or the sweeper
    queued, validating_files -> cancelled                   the API, at once

A terminal status is never left. A wish to cancel is a column (`cancel_requested_at`), not a status.

    Model, dataset
    ---------------------------------------------------------------------------------------------
    validating -> ready | failed     by the worker that holds the lease (or the sweeper: attempts used up)
"""

from typing import Literal

JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
AssetStatus = Literal["validating", "ready", "failed"]

TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    "validating_files": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"queued", "succeeded", "failed", "cancelled"}),
    "paused": frozenset(),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

MAX_ATTEMPTS = 3


def allowed_actions(status: JobStatus) -> list[str]:
    """What a person may ask of a job in this status."""
    return [] if status in TERMINAL else ["cancel"]
