"""Jobs on the wire: OpenAI's `fine_tuning.job` with Thaw's own members beside it."""

from typing import Literal, Self

from pydantic import Field

from app.api.schemas.base import ListOf, Wire, seconds
from app.domain.artifacts import Artifact
from app.domain.augmentation import Augmentation
from app.domain.caching import CacheWish
from app.domain.errors import Failure
from app.domain.exports import ExportFormat
from app.domain.head import HeadChoice
from app.domain.job import Attempt, ForkedFrom, Job, StageRecord
from app.domain.phases import Phase
from app.domain.plan import Plan
from app.domain.presets import PresetName
from app.domain.progress import PhaseProgress, ResumeFidelity, Stage
from app.domain.report import Report
from app.domain.spec import Adjustment, Cut, Preprocessing, total_epochs
from app.domain.states import JobStatus, Priority, allowed_actions

PATH = "/v1/fine_tuning/jobs"


class Hyperparameters(Wire):
    """What OpenAI's clients show; `schedule` says it all."""

    batch_size: int
    """Examples in each step."""
    n_epochs: int
    """Epochs of all phases together, if none stops early."""


class Standing(Wire):
    """How far a job is."""

    percent: float
    """From 0 to 100."""
    eta_seconds: float | None
    """How long it will still take until it has ended, where that can be told; for a queued job from its place in the
    queue, the workers that train, and what the project's last jobs took."""
    queue_position: int | None
    """Of a queued job: 1 is taken next, if no other comes before it. `null` beyond 10,000, and in lists, where it would
    cost too much."""


class ArtifactObject(Wire):
    """A file that a job has made."""

    name: str = Field(examples=["model.keras"])
    """Its name in the job."""
    object: Literal["artifact"] = "artifact"
    """Always `artifact`."""
    bytes: int
    """Its size."""
    sha256: str
    """Digest of its bytes."""
    url: str = Field(examples=["/v1/fine_tuning/jobs/ftjob-01jd8k2v7e0000000000000000/artifacts/model.keras"])
    """Where to download it, on this service."""

    @classmethod
    def of(cls, job_id: str, artifact: Artifact) -> Self:
        """The wire form."""
        url = f"{PATH}/{job_id}/artifacts/{artifact.name}"
        return cls(name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256, url=url)


class ArtifactList(ListOf[ArtifactObject]):
    """All files that a job has made."""


class JobObject(Wire):
    """One fine-tuning run."""

    id: str = Field(examples=["ftjob-01jd8k2v7e0000000000000000"])
    """Names the job."""
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    """Always `fine_tuning.job`."""
    created_at: int
    """When it was accepted."""
    started_at: int | None
    """When its first attempt began."""
    finished_at: int | None
    """When it reached a status that it never leaves."""
    estimated_finish: int | None
    """When it may be done."""
    status: JobStatus
    """`validating_files`, `queued`, `running`, `paused`, and in the end `succeeded`, `failed` or `cancelled`."""
    model: str
    """The source as requested: an id, or a name of the catalogue."""
    training_file: str
    """The data as requested: a dataset's or a file's id."""
    validation_file: str | None = None
    """Always `null`: the dataset brings its validation split."""
    model_id: str
    """The model it trains from; for a file or a name, the model that it became."""
    dataset_id: str
    """The dataset it trains on."""
    fine_tuned_model: str | None
    """The result, once there is one: a model's id."""
    cut: Cut
    """Up to which layer the source is reused."""
    head: HeadChoice
    """The new layers on top; `keep`: the source's own output layer."""
    schedule: list[Phase]
    """The phases, in order."""
    preset: PresetName | None
    """The preset that the phases come from; `null`: they were given one by one."""
    cache: CacheWish
    """Whether frozen layers run once instead of in every epoch; the report says where they did."""
    batch_size: int
    """Examples in each step."""
    preprocessing: Preprocessing
    """How raw examples become what the source expects."""
    class_weights: Literal["balanced"] | dict[str, float] | None
    """How much examples of each class count in training; the report has the numbers."""
    label_smoothing: float
    """How much of each label is spread over all classes in training."""
    mixed_precision: Literal["off", "bfloat16", "float16"]
    """What layers compute in during training."""
    augmentation: list[Augmentation]
    """What happens at random to training pictures; empty: nothing."""
    backbone_weights: Literal["source", "random"]
    """`random`: the from-scratch baseline."""
    exports: list[ExportFormat]
    """Formats of the result beside `model.keras`; what became of each stands in the report."""
    seed: int
    """The same job with the same seed gives the same weights on the same kind of machine."""
    adjustments: list[Adjustment]
    """What Thaw itself changed in the job since it was sent, so that it could go on, such as smaller batches after
    memory had run out; the fields above say how it is trained now. Empty: nothing."""
    suffix: str | None
    """Part of the result's name."""
    metadata: dict[str, str]
    """As sent."""
    priority: Priority
    """Queued jobs with a higher one go first."""
    max_seconds: float | None
    """How long it may run, in all attempts together."""
    deadline_at: float | None
    """When it must have ended."""
    retry_of: str | None
    """The job that this one does again."""
    forked_from: ForkedFrom | None
    """The job and the checkpoint that this one starts from."""
    stage: Stage | None
    """What it does at the moment. An open set: there may be more stages some day."""
    stage_history: list[StageRecord]
    """The stages so far, with their times."""
    phase: PhaseProgress | None
    """Where in the schedule it is."""
    progress: Standing
    """How far it is."""
    attempt: Attempt
    """The execution that runs now, or ran last."""
    cancel_requested_at: float | None
    """When somebody asked for it to be cancelled."""
    pause_requested_at: float | None
    """When somebody asked for it to be paused, if it is or shall be."""
    resume_fidelity: ResumeFidelity | None
    """`exact`: interrupted or not, the job ends in the same weights, bit for bit. `tolerance`: nearly the same, as its
    device, a change of machine or versions, or features that were cached and now are not, allow no more. `null` until a
    worker has said so."""
    allowed_actions: list[str]
    """What may be asked of it now."""
    error: Failure | None
    """Why it failed, and whose fault that was."""
    set_aside: Failure | None
    """Why Thaw itself has paused the job, such as a full disk (`storage_full`); `null` otherwise, and in lists."""
    resume_at: float | None
    """From when on Thaw resumes what it has set aside, as soon as a worker has room; `null` otherwise."""
    artifacts: list[ArtifactObject]
    """What it has made."""
    report: Report | None
    """What it found out; `null` in lists and until it has succeeded."""
    hyperparameters: Hyperparameters
    """For OpenAI's clients."""
    organization_id: str = "org-thaw"
    """For OpenAI's clients."""
    result_files: list[str] = Field(default_factory=list)
    """For OpenAI's clients, always empty: results are `artifacts`."""
    integrations: list[str] = Field(default_factory=list)
    """For OpenAI's clients, always empty."""
    trained_tokens: None = None
    """For OpenAI's clients, always `null`."""
    method: None = None
    """For OpenAI's clients, always `null`: `schedule` is the method."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The wire form."""
        spec = job.spec
        return cls(
            id=job.id,
            **_times(job),
            **{name: getattr(job, name) for name in _SAME},
            **{name: getattr(spec, name) for name in _SAME_IN_SPEC},
            fine_tuned_model=job.result_model_id,
            progress=_standing(job),
            allowed_actions=allowed_actions(job.status),
            artifacts=[ArtifactObject.of(job.id, artifact) for artifact in job.artifacts],
            hyperparameters=Hyperparameters(batch_size=spec.batch_size, n_epochs=total_epochs(spec.schedule)),
        )


_SAME = (
    "status", "model", "training_file", "model_id", "dataset_id", "suffix", "metadata", "stage", "stage_history",
    "phase", "attempt", "cancel_requested_at", "pause_requested_at", "resume_fidelity", "error",
    "report", "priority", "max_seconds", "deadline_at", "retry_of", "forked_from", "set_aside",
    "resume_at",
)  # fmt: skip
_SAME_IN_SPEC = (
    "cut", "head", "schedule", "preset", "cache", "batch_size", "class_weights", "label_smoothing", "mixed_precision",
    "preprocessing", "augmentation", "backbone_weights", "exports", "seed", "adjustments",
)  # fmt: skip


def _times(job: Job) -> dict[str, int | None]:
    runs = job.status == "running" and job.eta_seconds is not None
    return {
        "created_at": int(job.created_at),
        "started_at": seconds(job.started_at),
        "finished_at": seconds(job.finished_at),
        "estimated_finish": seconds(job.updated_at + (job.eta_seconds or 0.0)) if runs else None,
    }


def _standing(job: Job) -> Standing:
    eta = job.eta_seconds if job.status in {"running", "queued"} else None
    return Standing(percent=round(job.progress * 100, 1), eta_seconds=eta, queue_position=job.queue_position)


class JobList(ListOf[JobObject]):
    """A page of jobs."""


class PlanObject(Plan, Wire):
    """What a job would do. Nothing was created."""

    object: Literal["fine_tuning.job.plan"] = "fine_tuning.job.plan"
    """Always `fine_tuning.job.plan`."""

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The wire form."""
        return cls(**{name: getattr(plan, name) for name in Plan.model_fields})
