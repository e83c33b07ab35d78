"""The tables. Times are Unix seconds by the database's clock; ids sort by time.

    projects -+- api_keys, idempotency
              +- files
              +- uploads -- upload_parts   become files
              +- models, datasets          claimed by workers that check them
              +- jobs                      claimed by workers that train them
                   +- job_metadata, events, checkpoints, metrics
    workers                                serve all projects

The CHECK constraints are the last line of defence: the database itself refuses a row that cannot be, such as a
running job that nobody holds.
"""

from typing import Any, ClassVar, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.domain.job import CheckpointKind
from app.domain.progress import Level, ResumeFidelity, Stage
from app.domain.states import TERMINAL, AssetStatus, JobStatus
from app.domain.upload import UploadStatus
from app.storage.columns import Base, JsonList, JsonObject, Owned, newest_first, one_of

METADATA = Base.metadata
"""Every table below."""

# === Who ===


class ProjectRow(Base):
    """To whom things belong."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float]


class ApiKeyRow(Owned, Base):
    """A key that opens a project. The key itself is nowhere, only its sha256."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)


class IdempotencyRow(Owned, Base):
    """An Idempotency-Key and, once there is one, the answer that it got (`status` is `None` until then)."""

    __tablename__ = "idempotency"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int | None]
    headers: Mapped[JsonObject | None]
    body: Mapped[str | None]

    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)


class WorkerRow(Base):
    """A worker process, as it last announced itself."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[float]
    capabilities: Mapped[JsonObject]


# === What ===


class FileRow(Owned, Base):
    """Bytes that somebody uploaded."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    blob: Mapped[JsonObject]

    __table_args__ = (newest_first("files"), newest_first("files", "purpose"))


class UploadRow(Owned, Base):
    """A file that arrives in parts."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[UploadStatus] = mapped_column(Text)
    expires_at: Mapped[float]
    bytes: Mapped[int] = mapped_column(BigInteger)
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    sha256: Mapped[str | None]
    completed_with: Mapped[str | None]
    file_id: Mapped[str | None]
    """What it has become, which may be deleted since."""

    __table_args__ = (
        one_of("status", get_args(UploadStatus)),
        CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="file"),
        newest_first("uploads"),
        newest_first("uploads", "status"),
        newest_first("uploads", "sha256"),
        Index("ix_uploads_expiry", "status", "expires_at"),
    )


class UploadPartRow(Owned, Base):
    """Some bytes of an upload; gone when that is no longer pending."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"))
    number: Mapped[int]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sealed: Mapped[JsonObject]

    __table_args__ = (UniqueConstraint("upload_id", "number"),)


class Leased(Owned, Base):
    """Columns of what workers claim: jobs, models, datasets.

    A row in the status `waiting` without a lease may be claimed; while a worker holds it, it is in `held` and has
    a lease.
    """

    __abstract__ = True
    waiting: ClassVar[str]
    held: ClassVar[str]

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[Any] = mapped_column(Text)
    updated_at: Mapped[float]
    """Of the last change that people see; renewing the lease is none."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Each claim counts one up: the fencing token that every later write of that worker names."""
    lost_attempts: Mapped[int] = mapped_column(default=0)
    """Attempts whose worker died or gave up by its own fault; too many end the work."""
    worker: Mapped[str | None]
    """Who holds it, or held it last."""
    lease_expires_at: Mapped[float | None]
    rung_at: Mapped[float]
    """When its hint was sent last; 0: it got nowhere, so ring as soon as possible."""
    error: Mapped[JsonObject | None]


def _for_the_sweeper(table: str) -> tuple[Index, Index]:
    """Indexes that find what is overdue, however many rows there are."""
    return Index(f"ix_{table}_leases", "status", "lease_expires_at"), Index(f"ix_{table}_hints", "status", "rung_at")


class Asset(Leased):
    """Columns of models and datasets: both come from a file and are checked before anything uses them."""

    __abstract__ = True
    waiting = "validating"
    held = "validating"

    status: Mapped[AssetStatus] = mapped_column(Text)
    name: Mapped[str]
    file_id: Mapped[str | None]
    """The upload that it came from, which may be deleted since."""
    options: Mapped[JsonObject]
    info: Mapped[JsonObject | None]
    canonical: Mapped[JsonList | None]


def _asset_rules(table: str) -> tuple[Any, ...]:
    return (
        one_of("status", get_args(AssetStatus)),
        CheckConstraint("lease_expires_at IS NULL OR status = 'validating'", name="lease"),
        CheckConstraint("(status = 'ready') = (info IS NOT NULL)", name="info"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        newest_first(table),
        newest_first(table, "status"),
        Index(f"ix_{table}_file", "project", "file_id"),
        *_for_the_sweeper(table),
    )


class ModelRow(Asset):
    """A Keras model that Thaw knows."""

    __tablename__ = "models"

    reference: Mapped[str | None]
    """The name that it was registered by, if not from a file."""
    job_id: Mapped[str | None]
    download: Mapped[JsonList]

    __table_args__ = (*_asset_rules("models"), Index("ix_models_reference", "project", "reference"))


class DatasetRow(Asset):
    """A set of examples with its splits."""

    __tablename__ = "datasets"

    preview: Mapped[JsonList] = mapped_column(deferred=True, deferred_raiseload=True)
    """Pictures of hundreds of kilobytes: read only where they are shown."""

    __table_args__ = _asset_rules("datasets")


def _few(name: str, column: str, condition: str) -> Index:
    """An index of only those jobs that are of interest, which is seldom many, in the order of a time."""
    return Index(name, column, sqlite_where=text(condition), postgresql_where=text(condition))


_DONE = ", ".join(f"'{status}'" for status in sorted(TERMINAL))


class JobRow(Leased):
    """A job. Its status changes in `jobs.move` and nowhere else."""

    __tablename__ = "jobs"
    waiting = "queued"
    held = "running"

    status: Mapped[JobStatus] = mapped_column(Text)
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    queued_at: Mapped[float | None]
    """When it joined the queue in which it is; `None`: it is in none."""
    cancel_requested_at: Mapped[float | None]
    pause_requested_at: Mapped[float | None]
    api_key_id: Mapped[str] = mapped_column(default="")
    """The key that it was submitted with; empty: nobody knows."""
    priority: Mapped[int] = mapped_column(default=1)
    """Its place in `states.SERVED`: 0 is served first."""
    max_seconds: Mapped[float | None]
    deadline_at: Mapped[float | None]
    attempt_started_at: Mapped[float | None]
    run_seconds: Mapped[float] = mapped_column(default=0.0)
    """How long the attempts that have ended have run."""
    resume_at: Mapped[float | None]
    """Paused because a disk was full: when it may go on without anybody's asking; else `None`."""
    times_full: Mapped[int] = mapped_column(default=0)
    """How often in a row it found no room, with nothing new kept in between."""
    retry_of: Mapped[str | None]
    forked_from: Mapped[JsonObject | None]
    model: Mapped[str]
    training_file: Mapped[str]
    model_id: Mapped[str]
    dataset_id: Mapped[str]
    spec: Mapped[JsonObject]
    suffix: Mapped[str | None]
    labels: Mapped[JsonObject] = mapped_column("metadata")
    """The job's metadata, by a name that SQLAlchemy does not use itself."""
    stage: Mapped[Stage | None] = mapped_column(Text)
    stage_history: Mapped[JsonList]
    phase: Mapped[JsonObject | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    eta_seconds: Mapped[float | None]
    epoch_seconds: Mapped[float | None]
    """How long an epoch of the present phase takes, as measured; what `eta_seconds` is made of."""
    epochs_run: Mapped[int] = mapped_column(default=0)
    """Numbers its epochs over all attempts, without gaps."""
    phases_started: Mapped[int] = mapped_column(default=0)
    """The index of the last phase of which an event has told that it started."""
    resume_fidelity: Mapped[ResumeFidelity | None] = mapped_column(Text)
    event_count: Mapped[int] = mapped_column(default=0)
    """Numbers its events, without gaps: it counts up in the statement that locks the row."""
    events_compacted_at: Mapped[float | None]
    """When events of single epochs made room, long after the end."""
    result_model_id: Mapped[str | None]
    artifacts: Mapped[JsonList]
    report: Mapped[JsonObject | None]

    __table_args__ = (
        one_of("status", get_args(JobStatus)),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint(f"(status IN ({_DONE})) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("(status = 'succeeded') = (result_model_id IS NOT NULL)", name="result"),
        newest_first("jobs"),
        newest_first("jobs", "status"),
        newest_first("jobs", "model_id"),
        newest_first("jobs", "dataset_id"),
        *_for_the_sweeper("jobs"),
        Index("ix_jobs_line", "status", "priority", "api_key_id", "created_at", "id"),
        _few("ix_jobs_deadlines", "deadline_at", "deadline_at IS NOT NULL AND finished_at IS NULL"),
        _few("ix_jobs_queued", "queued_at", "queued_at IS NOT NULL"),
        _few("ix_jobs_aside", "resume_at", "resume_at IS NOT NULL"),
        _few("ix_jobs_compaction", "finished_at", "events_compacted_at IS NULL AND finished_at IS NOT NULL"),
    )


# === What a job leaves behind ===


class OfJob(Owned):
    """Columns of what belongs to a job."""

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))


class JobMetadataRow(OfJob, Base):
    """One pair of a job's metadata, so that lists can be filtered by it through an index."""

    __tablename__ = "job_metadata"

    key: Mapped[str]
    value: Mapped[str]

    __table_args__ = (
        PrimaryKeyConstraint("job_id", "key"),
        Index("ix_job_metadata_page", "project", "key", "value", "created_at", "job_id"),
    )


class EventRow(OfJob, Base):
    """One line of a job's history."""

    __tablename__ = "events"

    number: Mapped[int]
    level: Mapped[Level] = mapped_column(Text)
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[JsonObject]

    __table_args__ = (PrimaryKeyConstraint("job_id", "number"),)


class CheckpointRow(OfJob, Base):
    """The weights at the end of a phase (`artifact`), or everything needed to go on (`files`)."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[CheckpointKind] = mapped_column(Text)
    attempt: Mapped[int]
    number: Mapped[int]
    """Of its kind in its attempt."""
    phase_index: Mapped[int]
    step: Mapped[int]
    phase: Mapped[JsonObject]
    metrics: Mapped[JsonObject]
    artifact: Mapped[JsonObject | None]
    files: Mapped[JsonList]

    __table_args__ = (
        one_of("kind", get_args(CheckpointKind)),
        CheckConstraint("(kind = 'phase') = (artifact IS NOT NULL)", name="artifact"),
        UniqueConstraint("job_id", "kind", "attempt", "number"),
        Index("ix_checkpoints_kind", "kind", "job_id"),
    )


class MetricRow(OfJob, Base):
    """What one epoch measured."""

    __tablename__ = "metrics"

    attempt: Mapped[int]
    number: Mapped[int]
    phase_index: Mapped[int]
    epoch: Mapped[int]
    step: Mapped[int]
    phase: Mapped[JsonObject]
    metrics: Mapped[JsonObject]

    __table_args__ = (
        PrimaryKeyConstraint("job_id", "number"),
        UniqueConstraint("job_id", "phase_index", "epoch"),
    )
