"""`/v1/fine_tuning/jobs`: submit, plan, watch from afar, cancel, pause, resume, retry, fork."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import structlog
from fastapi import Body, Query
from pydantic import BaseModel
from starlette.responses import Response

from app.api.creation import Creation
from app.api.deps import CreationDep, JobId, MetadataFilter, PageDep, ProjectDep, ServicesDep, thaw_router
from app.api.examples import FORK_EXAMPLES, JOB_EXAMPLES, METADATA_PARAMETER, RETRY_EXAMPLES
from app.api.schemas.jobs import PATH, JobList, JobObject, PlanObject
from app.domain.again import ForkRequest, RetryRequest
from app.domain.job import Job, JobRequest
from app.domain.states import JobStatus
from app.services import again, jobs

router = thaw_router(PATH, tag="jobs")

log = structlog.get_logger("thaw.api")

JobBody = Annotated[JobRequest, Body(openapi_examples=JOB_EXAMPLES)]
RetryBody = Annotated[RetryRequest, Body(openapi_examples=RETRY_EXAMPLES)]
ForkBody = Annotated[ForkRequest, Body(openapi_examples=FORK_EXAMPLES)]
_AS_IT_WAS, _FROM_THE_LAST_PHASE = RetryRequest(), ForkRequest()
"""What a request without a body means."""


@router.post("", status_code=201, response_model=JobObject)
def create_job(body: JobBody, creation: CreationDep) -> Response:
    """Submit a job. What it leaves out is filled in with the textbook recipe and stored in full."""
    made = partial(jobs.submit, creation.services, creation.project, body, api_key_id=creation.key_id)
    return _created(creation, body, made)


def _created(creation: Creation, body: BaseModel | Mapping[str, object], make: Callable[[], Job]) -> Response:
    """Make a job, at most once for each Idempotency-Key; what is logged of it is committed."""
    made: list[Job] = []

    def answer() -> tuple[str, JobObject]:
        made.append(make())
        return f"{PATH}/{made[-1].id}", JobObject.of(made[-1])

    response = creation.once(body, answer)
    for job in made[-1:]:
        log.info("Created a job.", job_id=job.id, status=job.status)
    return response


@router.post("/plan")
def plan_job(body: JobBody, services: ServicesDep, project: ProjectDep) -> PlanObject:
    """Say what a job would do, and what is worth knowing before it starts. Nothing is created."""
    return PlanObject.of(jobs.plan(services, project, body))


@router.get("", openapi_extra={"parameters": [METADATA_PARAMETER]})
def list_jobs(
    *,
    services: ServicesDep,
    project: ProjectDep,
    page: PageDep,
    metadata: MetadataFilter,
    status: Annotated[JobStatus | None, Query(description="Only jobs with this status.")] = None,
    model: Annotated[str | None, Query(max_length=100, description="Only jobs that train from this model.")] = None,
    dataset: Annotated[str | None, Query(max_length=100, description="Only jobs that train on this dataset.")] = None,
    created_after: Annotated[
        float | None, Query(ge=0, le=1e11, description="Only jobs created after this time, in Unix seconds.")
    ] = None,
) -> JobList:
    """List jobs, the newest first. Their reports are left out here."""
    found = jobs.list_page(
        services,
        project,
        page,
        status=status,
        model=model,
        dataset=dataset,
        metadata=metadata or None,
        created_after=created_after,
    )
    return JobList.of([JobObject.of(job) for job in found.items], name=lambda job: job.id, has_more=found.has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: JobId, services: ServicesDep, project: ProjectDep) -> JobObject:
    """Retrieve a job: its status, progress, result or error. Poll with `If-None-Match`."""
    return JobObject.of(jobs.get(services, project, job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: JobId, services: ServicesDep, project: ProjectDep) -> JobObject:
    """Cancel a job. A running one stops within one training step; asking again is fine."""
    return JobObject.of(jobs.request_cancel(services, project, job_id))


@router.post("/{job_id}/pause")
def pause_job(job_id: JobId, services: ServicesDep, project: ProjectDep) -> JobObject:
    """Pause a job. A running one stops at its next training step, with a checkpoint; asking again is fine."""
    return JobObject.of(jobs.request_pause(services, project, job_id))


@router.post("/{job_id}/resume")
def resume_job(job_id: JobId, services: ServicesDep, project: ProjectDep) -> JobObject:
    """Resume a paused job. It goes on where it was, to the weights that it would have had; asking again is fine."""
    return JobObject.of(jobs.resume(services, project, job_id))


@router.post("/{job_id}/retry", status_code=201, response_model=JobObject)
def retry_job(job_id: JobId, creation: CreationDep, body: RetryBody = _AS_IT_WAS) -> Response:
    """Try a job again that failed or was cancelled: a new job with the same spec and seed, from the beginning.

    The first one stays as it ended; the new one names it in `retry_of`.
    """
    made = partial(again.retry, creation.services, creation.project, job_id, body, api_key_id=creation.key_id)
    return _created(creation, body, made)


@router.post("/{job_id}/fork", status_code=201, response_model=JobObject)
def fork_job(job_id: JobId, creation: CreationDep, body: ForkBody = _FROM_THE_LAST_PHASE) -> Response:
    """Fork a job: a new job that starts from weights of it, such as at the end of a phase, and goes on as wanted.

    The job itself goes on, or stays as it ended; the new one names it in `forked_from`.
    """
    made = partial(again.fork, creation.services, creation.project, job_id, body, api_key_id=creation.key_id)
    return _created(creation, body, made)
