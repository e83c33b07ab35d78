"""`/v1/fine_tuning/jobs`: submit, plan, watch from afar, cancel, pause, resume."""

from typing import Annotated

from fastapi import Body, Query
from starlette.responses import Response

from app.api.deps import CreationDep, JobId, MetadataFilter, PageDep, ProjectDep, ServicesDep, thaw_router
from app.api.examples import JOB_EXAMPLES, METADATA_PARAMETER
from app.api.schemas.jobs import PATH, JobList, JobObject, PlanObject
from app.domain.job import JobRequest
from app.domain.states import JobStatus
from app.services import jobs

router = thaw_router(PATH, tag="jobs")

JobBody = Annotated[JobRequest, Body(openapi_examples=JOB_EXAMPLES)]


@router.post("", status_code=201, response_model=JobObject)
def create_job(body: JobBody, creation: CreationDep) -> Response:
    """Submit a job. What it leaves out is filled in with the textbook recipe and stored in full."""

    def make() -> tuple[str, JobObject]:
        job = jobs.submit(creation.services, creation.project, body)
        return f"{PATH}/{job.id}", JobObject.of(job)

    return creation.once(body, make)


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
    return JobList.of([JobObject.in_list(job) for job in found.items], name=lambda job: job.id, has_more=found.has_more)


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
