"""Where a queued job stands, and when it may have ended.

    eta = (places until a device is free / devices + 1) x what a job usually takes

The place is that of the claim's own order (`app.storage.line`); what a job usually takes is the median of the project's
last ones that succeeded; devices are those of the live workers that train.
"""

from sqlalchemy.orm import Session

from app.domain.job import Job
from app.services import workers
from app.settings import Settings
from app.storage import line


def find(session: Session, project: str, job: Job, *, settings: Settings) -> dict[str, int | float | None]:
    """`queue_position` and `eta_seconds` of a queued job, `None` where they are not known; of others nothing."""
    if job.status != "queued":
        return {}
    place = line.position(session, job.id)
    devices = workers.devices(workers.alive(session, settings))
    pace = line.pace(session, project)
    return {"queue_position": place, "eta_seconds": eta(place, pace, devices=devices)}


def eta(place: int | None, pace: line.Pace, *, devices: int) -> float | None:
    """Seconds until a job in this place has ended; `None`: nobody trains, nothing was trained yet, or no place."""
    if place is None or pace.usual_seconds is None or not devices:
        return None
    waits = max(0, place - max(0, devices - pace.running))
    return (waits / devices + 1) * pace.usual_seconds
