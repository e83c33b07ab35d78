"""Reports: what a worker tells of what it claimed, up to how it ended.

Every function is one transaction, begins with a statement that carries the fence, and raises `LeaseLostError` if
the claim is lost: then nothing of it is kept, and the worker must stop.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.domain.artifacts import Artifact, Bundle
from app.domain.dataset import DatasetInfo, PreviewExample
from app.domain.errors import Failure, PlatformError
from app.domain.exports import FILES, Export
from app.domain.ids import new_id
from app.domain.job import Job
from app.domain.model import Model, ModelOptions, SourceInfo
from app.domain.progress import Progress
from app.domain.report import Report
from app.domain.states import JobStatus
from app.services import chronicle, leftovers, waiting
from app.services.claims import DatasetClaim, JobClaim, ModelClaim, lost
from app.services.context import Services
from app.services.models import MAX_NAME
from app.services.ringing import ring
from app.storage import assets, datasets, events, jobs, leases, models
from app.storage.events import News
from app.storage.rows import dumped, dumped_all
from app.storage.tables import JobRow

RESULT = FILES["keras"]
"""The artifact that people download as the result, if they ask for no other format."""

# === Jobs ===


def progress(
    services: Services, claim: JobClaim, told: Sequence[Progress], *, checkpoints: Mapping[str, Artifact]
) -> None:
    """Keep a batch of what the engine reported.

    `checkpoints`: the files of checkpoints that are uploaded already, by the paths that it named; of those that
    others have superseded, the files are deleted.
    """
    with services.db.begin() as session:
        job = leases.compare_and_set(
            session, JobRow, claim.project, claim.identifier, where=leases.fenced(JobRow, claim.attempt), values={}
        )
        if job is None:
            raise lost(claim)
        stale = chronicle.enter(session, job, told, checkpoints)
    # After the commit: from here on nothing refers to them. Whoever dies here leaves some bytes that nobody misses.
    leftovers.remove(services, stale)


def succeed_job(
    services: Services, claim: JobClaim, *, artifacts: Bundle, canonical: Bundle, info: SourceInfo, report: Report
) -> Job:
    """Publish the result, once: the artifacts become the job's, and a model is made of them."""
    by_name = {artifact.name: artifact for artifact in artifacts}
    download = [by_name[name] for name in FILES.values() if name in by_name]
    if RESULT not in by_name:
        message = f"A result must hold '{RESULT}'; received {[artifact.name for artifact in artifacts]}."
        raise PlatformError(message, code="incomplete_result")
    result_id = new_id("model")
    values = {
        "progress": 1.0,
        "artifacts": dumped_all(artifacts),
        "report": dumped(report),
        "result_model_id": result_id,
    }
    with services.db.begin() as session:
        _warn_of_exports(session, claim, report.exports)
        row = _end(session, claim, "succeeded", news="The job succeeded.", values=values)
        result = _result(claim, result_id, row.updated_at, info=info, canonical=canonical, download=download)
        models.add(session, claim.project, result)
        return jobs.job_of(row)


def _warn_of_exports(session: Session, claim: JobClaim, exports: Sequence[Export]) -> None:
    """Tell of those that failed; before the end, which is a job's last event."""
    failed = [export for export in exports if export.status == "failed"]
    if not failed:
        return
    where = leases.fenced(JobRow, claim.attempt)
    row = leases.compare_and_set(session, JobRow, claim.project, claim.identifier, where=where, values={})
    if row is None:
        raise lost(claim)
    events.append(session, row, [_failed_export(export) for export in failed])


def _failed_export(export: Export) -> News:
    message = f"The export '{export.format}' failed: {export.reason}"
    return News("message", message, level="warn", data={"export": export.model_dump(mode="json")})


def fail_job(services: Services, claim: JobClaim, failure: Failure) -> Job:
    """The job failed, for this reason."""
    with services.db.begin() as session:
        return jobs.job_of(_end(session, claim, "failed", news=failure.message, values={"error": dumped(failure)}))


def cancel_job(services: Services, claim: JobClaim) -> Job:
    """The job has stopped because somebody wanted it to."""
    with services.db.begin() as session:
        return jobs.job_of(_end(session, claim, "cancelled", news="The job was cancelled.", values={}))


def _end(session: Session, claim: JobClaim, status: JobStatus, *, news: str, values: Mapping[str, Any]) -> JobRow:
    row = jobs.move(
        session,
        claim.project,
        claim.identifier,
        old="running",
        new=status,
        news=news,
        where=leases.fenced(JobRow, claim.attempt),
        values=values,
    )
    if row is None:
        raise lost(claim)
    return row


def _result(
    claim: JobClaim, identifier: str, created_at: float, *, info: SourceInfo, canonical: Bundle, download: Bundle
) -> Model:
    ending = claim.job.suffix or claim.identifier.removeprefix("ftjob-")[-6:]
    return Model(
        id=identifier,
        name=f"{claim.model.name[: MAX_NAME - len(ending) - 1]}-{ending}",
        created_at=created_at,
        status="ready",
        file_id=None,
        reference=None,
        job_id=claim.identifier,
        options=ModelOptions(rescale=info.rescale, labels=info.labels),
        info=info,
        canonical=canonical,
        download=download,
        error=None,
    )


# === Models and datasets. Jobs that wait for them move on in the same transaction. ===


def finish_model(services: Services, claim: ModelClaim, *, info: SourceInfo, canonical: Bundle) -> None:
    """The model is ready."""
    _finish(services, claim, canonical=canonical, values=models.found_out(info))


def finish_dataset(
    services: Services,
    claim: DatasetClaim,
    *,
    info: DatasetInfo,
    preview: Sequence[PreviewExample],
    canonical: Bundle,
) -> None:
    """The dataset is ready."""
    _finish(services, claim, canonical=canonical, values=datasets.found_out(info, preview))


def fail_model(services: Services, claim: ModelClaim, failure: Failure) -> None:
    """The model cannot be used."""
    _fail(services, claim, failure)


def fail_dataset(services: Services, claim: DatasetClaim, failure: Failure) -> None:
    """The dataset cannot be used."""
    _fail(services, claim, failure)


def _finish(
    services: Services, claim: ModelClaim | DatasetClaim, *, canonical: Bundle, values: Mapping[str, Any]
) -> None:
    with services.db.begin() as session:
        done = assets.set_ready(
            session,
            claim.row,
            claim.project,
            claim.identifier,
            where=leases.fenced(claim.row, claim.attempt),
            canonical=canonical,
            values=values,
        )
        if done is None:
            raise lost(claim)
        hints = waiting.move_on(session, claim.project, claim.identifier)
    ring(services, hints)


def _fail(services: Services, claim: ModelClaim | DatasetClaim, failure: Failure) -> None:
    with services.db.begin() as session:
        where = leases.fenced(claim.row, claim.attempt)
        done = assets.set_failed(session, claim.row, claim.project, claim.identifier, where=where, failure=failure)
        if done is None:
            raise lost(claim)
        hints = waiting.move_on(session, claim.project, claim.identifier)
    ring(services, hints)
