"""What a job has lived through and made: events, checkpoints, metrics, report, artifacts."""

from typing import Annotated

from fastapi import Header
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import ArtifactName, JobId, PageDep, ProjectDep, ServicesDep, StreamsDep, thaw_router
from app.api.downloads import DOCUMENTED, download
from app.api.examples import EVENT_STREAM
from app.api.schemas.history import (
    CheckpointList,
    CheckpointObject,
    EventList,
    EventObject,
    MetricsList,
    MetricsObject,
)
from app.api.schemas.jobs import PATH, ArtifactList, ArtifactObject
from app.domain.errors import ConflictError, NotFoundError
from app.domain.report import Report
from app.services import history, jobs

router = thaw_router(f"{PATH}/{{job_id}}", tag="jobs")

LastEventId = Annotated[
    int | None, Header(ge=0, le=2**53, description="Streams: go on behind the event with this number.")
]


@router.get("/events", response_model=EventList, responses=EVENT_STREAM)
def list_events(
    *,
    job_id: JobId,
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    streams: StreamsDep,
    page: PageDep,
    last_event_id: LastEventId = None,
) -> EventList | Response:
    """List a job's events, or watch them: `Accept: text/event-stream` sends each as it happens until `completed`."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return streams.events_of(jobs.get(services, project, job_id), project, after_number=last_event_id or 0)
    found = history.events(services, project, job_id, page)
    return EventList.of(
        [EventObject.of(event) for event in found.items], name=lambda event: event.id, has_more=found.has_more
    )


@router.get("/checkpoints")
def list_checkpoints(job_id: JobId, services: ServicesDep, project: ProjectDep, page: PageDep) -> CheckpointList:
    """List what a job keeps: the weights at the end of each phase, and what it goes on from if it is interrupted."""
    found = history.checkpoints(services, project, job_id, page)
    return CheckpointList.of(
        [CheckpointObject.of(checkpoint) for checkpoint in found.items],
        name=lambda checkpoint: checkpoint.id,
        has_more=found.has_more,
    )


@router.get("/metrics")
def list_metrics(job_id: JobId, services: ServicesDep, project: ProjectDep, page: PageDep) -> MetricsList:
    """List what each epoch measured. `after` takes the number of an epoch."""
    found = history.metrics(services, project, job_id, page)
    return MetricsList.of(
        [MetricsObject.of(row) for row in found.items], name=lambda row: str(row.number), has_more=found.has_more
    )


@router.get("/report")
def retrieve_report(job_id: JobId, services: ServicesDep, project: ProjectDep) -> Report:
    """Retrieve what a job found out, with its uncertainty. There is a report once it has succeeded."""
    job = jobs.get(services, project, job_id)
    if job.report is None:
        message = f"Job '{job_id}' has no report: its status is '{job.status}', it must be 'succeeded'."
        raise ConflictError(message)
    return job.report


@router.get("/artifacts")
def list_artifacts(job_id: JobId, services: ServicesDep, project: ProjectDep) -> ArtifactList:
    """List the files that a job has made."""
    job = jobs.get(services, project, job_id)
    return ArtifactList.of(
        [ArtifactObject.of(job_id, artifact) for artifact in job.artifacts], name=lambda artifact: artifact.name
    )


@router.head("/artifacts/{name}", include_in_schema=False)
@router.get("/artifacts/{name}", response_class=Response, responses=DOCUMENTED)
def download_artifact(
    job_id: JobId, name: ArtifactName, request: Request, services: ServicesDep, project: ProjectDep
) -> Response:
    """Download a file that a job has made, all of it or one `Range`."""
    job = jobs.get(services, project, job_id)
    artifact = next((artifact for artifact in job.artifacts if artifact.name == name), None)
    if artifact is None:
        there = ", ".join(artifact.name for artifact in job.artifacts) or f"none, its status is '{job.status}'"
        message = f"Job '{job_id}' has no artifact '{name}'. There are: {there}."
        raise NotFoundError(message)
    return download(request, services.store, artifact, filename=artifact.name)
