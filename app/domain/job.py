"""Jobs: what is asked for, and what is known about one."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.domain.artifacts import Artifact, Bundle
from app.domain.base import Value
from app.domain.errors import Failure
from app.domain.progress import Level, PhaseProgress, ResumeFidelity, Stage
from app.domain.report import Report
from app.domain.spec import MAX_PHASES, ResolvedSpec, Spec
from app.domain.states import JobStatus, Priority

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


MaxSeconds = Annotated[float, Field(gt=0, le=1e9)]
UnixSeconds = Annotated[float, Field(ge=0, le=1e11)]
Suffix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._\-]{1,64}$")]
MAX_METADATA = 16
"""Pairs of a job."""
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)]
SEEDS = 2**31
"""So many there are, from 0."""
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class JobRequest(Spec):
    """A request to fine-tune: a source, a dataset and how."""

    model: str = Field(
        min_length=1,
        max_length=300,
        description="A model's id; the id of an uploaded model file, of a job that has succeeded (its result) or of a "
        "checkpoint; or a name of the catalogue such as `keras:MobileNetV2?input_size=160`, of the Hugging Face "
        "Hub: `hf://owner/name@revision/model.keras`, or of a preset of KerasHub: `keras_hub:resnet_18_imagenet`.",
        examples=["model-01jd…", "keras:MobileNetV2"],
    )
    training_file: str = Field(
        min_length=1,
        max_length=100,
        description="A dataset's id, or the id of an uploaded data file.",
        examples=["ds-01jd…"],
    )
    seed: Seed | None = Field(default=None, description="Made and stored if left out.")
    suffix: Suffix | None = Field(default=None, description="Part of the result's name.")
    metadata: Metadata = Field(
        default_factory=dict, description="Yours, to find jobs by.", examples=[{"team": "shoes"}]
    )
    priority: Priority = "normal"
    """Queued jobs with a higher one go first; among equals, those of the API key that has the fewest running."""
    max_seconds: MaxSeconds | None = Field(
        default=None,
        description=(
            "How long the job may run, in all attempts together, in seconds; waiting and pauses do not count. One that "
            "takes longer is asked to stop, and fails with class `budget`; the weights that it had by then stay, to be "
            "forked from. "
            "`null`: as long as it takes."
        ),
        examples=[3600],
    )
    deadline_at: UnixSeconds | None = Field(
        default=None,
        description=(
            "When it must have ended, in Unix seconds. If it has not, it fails with class `budget`, whether it runs, "
            "waits or is paused. `null`: whenever."
        ),
    )


class StageRecord(Value):
    """A stage that a job went through, in one attempt."""

    stage: Stage
    """What it did."""
    attempt: int
    """In which attempt."""
    started_at: float
    """Unix seconds."""
    finished_at: float | None = None
    """`None` while it lasts."""


class Attempt(Value):
    """The execution of a job that runs now, or ran last."""

    number: int
    """Counts the claims of the job from 1; 0 before the first."""
    worker: str | None
    """Who runs it, or ran it last."""
    lease_expires_at: float | None
    """Until when it may consider the job its own; `None` while nobody has it."""


class ForkedFrom(Value):
    """Where a job that is a fork took its weights from."""

    job: str = Field(examples=["ftjob-01jd8k2v7e0000000000000000"])
    """The job that made them."""
    checkpoint: str = Field(examples=["ckpt-01jd8k2v7e0000000000000000"])
    """The end of one of its phases."""


class Job(Value):
    """Everything known about a job except its events, metrics and checkpoints."""

    id: str
    created_at: float
    """Unix seconds, like all times here."""
    started_at: float | None
    finished_at: float | None
    status: JobStatus
    cancel_requested_at: float | None
    pause_requested_at: float | None
    priority: Priority
    max_seconds: float | None
    """How long it may run, over all attempts."""
    deadline_at: float | None
    retry_of: str | None
    """The job that this one does again."""
    forked_from: ForkedFrom | None
    model: str
    """As requested: an id, or a name of the catalogue."""
    training_file: str
    model_id: str
    """The model it trains from; for a file, the model that the file became."""
    dataset_id: str
    spec: ResolvedSpec
    suffix: str | None
    metadata: dict[str, str]
    stage: Stage | None
    stage_history: list[StageRecord]
    phase: PhaseProgress | None
    progress: float
    """Fraction of the work done, from 0 to 1."""
    eta_seconds: float | None
    """Until it has ended; of a queued job set only where one job is asked for."""
    attempt: Attempt
    resume_fidelity: ResumeFidelity | None
    """Whether interruptions change the result; `None` until a worker has said so."""
    error: Failure | None
    result_model_id: str | None
    artifacts: Bundle
    report: Report | None
    updated_at: float
    """Changes with every change of this record."""
    set_aside: Failure | None = None
    """Why Thaw itself has paused it; set only where one job is asked for."""
    resume_at: float | None = None
    """When Thaw may resume what it has set aside."""
    queue_position: int | None = None
    """From 1, in the order in which workers take jobs, up to 10,000; set only where one job is asked for."""


class Event(Value):
    """One line of a job's history. Numbers count from 1 without gaps, but for what `compacted` stands for."""

    job_id: str
    number: int
    created_at: float
    level: Level
    type: str
    """`message`, `metrics`, `stage`, `phase`, `status`, `resumed`, `checkpoint_refused`, `attempt_lost`, `adjusted`,
    `storage_full`, `compacted` (stands for the events `data.first` to `data.last`), `completed` (the last one)."""
    message: str
    data: dict[str, object] = Field(default_factory=dict)


CheckpointKind = Literal["phase", "resume"]
"""`phase`: weights that another job may begin with; `resume`: everything needed to go on exactly."""
Within = Literal["best", "last"]
"""Weights of a phase that did not end: of its best epoch, as it diverged, or those that it had when it was ended."""


def number_within(phase_index: int, which: Within) -> int:
    """The number of weights from within a phase; those from its end have the phase's index."""
    return phase_index + MAX_PHASES * (1 if which == "best" else 2)


class Checkpoint(Value):
    """Weights that another job may begin with, which stay, or what an interrupted job goes on from."""

    id: str
    kind: CheckpointKind
    job_id: str
    created_at: float
    attempt: int
    number: int
    """Of its kind in its attempt."""
    step: int
    phase: PhaseProgress
    metrics: dict[str, float]
    """Of the epoch that had just ended; empty if it was interrupted within one."""
    artifact: Artifact | None
    """`phase`: all weights of the model."""
    files: Bundle
    """`resume`: the folder's files."""

    @property
    def within(self) -> Within | None:
        """Of kind `phase`: which weights from within the phase they are; `None`: those that it ended with."""
        if self.kind == "resume" or self.number == self.phase.index:
            return None
        return "best" if self.number == number_within(self.phase.index, "best") else "last"


class EpochMetrics(Value):
    """What one epoch measured."""

    job_id: str
    attempt: int
    number: int
    """Epochs since the start of the job, from 1."""
    created_at: float
    phase: PhaseProgress
    step: int
    metrics: dict[str, float]
