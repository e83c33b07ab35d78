"""The life of a job, and of the models and datasets that must be checked before a job can use them.

    Job                                                     who moves it
    ---------------------------------------------------------------------------------------------
    validating_files -> queued       its files are ready    the service, when the last one is ready
    validating_files -> failed       a file is unusable     the service
    queued           -> running      claim, attempt + 1     a worker
    running          -> queued       lease expired          the sweeper, while attempts are left
    running          -> queued       the worker stops       the worker that holds the lease, after its checkpoint
    running          -> queued       its process crashed,   the worker that holds the lease, while attempts are left
                                     was killed or hung
    running          -> queued       memory ran out         the worker that holds the lease, once, with smaller batches
    running          -> paused       it was asked to        the worker that holds the lease, after its checkpoint,
                                                            or the sweeper
    running          -> paused       the disk is full       the worker that holds the lease
    running          -> failed       attempts used up       the sweeper, or the worker that holds the lease
    running          -> succeeded    result published       the worker that holds the lease
    running          -> failed       with its reason        the worker that holds the lease
    running          -> cancelled    it was asked to        the worker that holds the lease, or the sweeper
    queued, validating_files, paused -> cancelled           the API, at once
    queued           -> paused                              the API, at once
    paused           -> queued                              the API, at once

A terminal status is never left. A wish to cancel or to pause is a column (`cancel_requested_at`,
`pause_requested_at`), not a status. An attempt is lost when its worker or its training process is; `MAX_ATTEMPTS` of
them without a new checkpoint in between fail the job.

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
    "queued": frozenset({"running", "paused", "cancelled"}),
    "running": frozenset({"queued", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

MAX_ATTEMPTS = 3


def allowed_actions(status: JobStatus) -> list[str]:
    """What a person may ask of a job in this status."""
    actions: dict[JobStatus, list[str]] = {
        "validating_files": ["cancel"],
        "queued": ["cancel", "pause"],
        "running": ["cancel", "pause"],
        "paused": ["cancel", "resume"],
    }
    return actions.get(status, [])
