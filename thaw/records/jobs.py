"""Jobs, their plans, events, metrics and reports as the service describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thaw.records.assets import Failure
from thaw.records.record import Record


@dataclass(frozen=True, kw_only=True)
class PhaseProgress(Record):
    """Where in the schedule a job is; `index` and `epoch` count from 1."""

    index: int
    name: str
    epoch: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class JobProgress(Record):
    """How far a job is."""

    percent: float | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt(Record):
    """The execution of a job that runs now, or ran last."""

    number: int
    worker: str | None = None
    lease_expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact(Record):
    """A file that a job produced."""

    name: str
    bytes: int
    sha256: str
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """The one look at the test split, at the end of a job."""

    examples: int
    loss: float | None = None
    accuracy: Interval | None = None
    exact_match: Interval | None = None
    """Several labels for each example: the fraction of examples of which all labels are right."""
    label_accuracy: Interval | None = None
    """Several labels for each example: the fraction of labels that are right."""
    mean_absolute_error: Interval | None = None
    confusion_matrix: Sequence[Sequence[int]] | None = None
    """Rows are true classes, columns predicted ones."""
    per_class: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True, kw_only=True)
class FreezeProof(Record):
    """What was frozen stayed bit-identical, what was unfrozen moved."""

    phase: str
    held: bool
    frozen_variables: int | None = None
    trained_variables: int | None = None
    moved_variables: int | None = None


@dataclass(frozen=True, kw_only=True)
class CacheUse(Record):
    """Whether frozen layers ran once instead of once for each epoch, and what that was worth."""

    used: bool
    reason: str | None = None
    """Why not."""
    boundary: Sequence[str] = ()
    """Names of the layers whose outputs were cached."""
    bytes: int = 0
    found: bool = False
    """Whether an earlier phase or job had made the features already."""
    pass_seconds: float = 0.0
    saved_seconds: float = 0.0
    """An estimate."""
    largest_difference: float | None = None
    """The certificate: between cached features and those of a training batch, on samples."""


@dataclass(frozen=True, kw_only=True)
class PhaseReport(Record):
    """What one phase did."""

    name: str
    epochs_run: int | None = None
    stopped_early: bool = False
    trainable_parameters: int | None = None
    frozen_parameters: int | None = None
    seconds: float | None = None
    proof: FreezeProof | None = None
    cache: CacheUse | None = None


@dataclass(frozen=True, kw_only=True)
class SourceReceipt(Record):
    """Whether the source is what it was."""

    unchanged: bool
    model_digest_before: str | None = None
    model_digest_after: str | None = None


@dataclass(frozen=True, kw_only=True)
class Export(Record):
    """What became of one export that the job asked for."""

    format: str
    status: str
    """`succeeded` or `failed`."""
    reason: str | None = None
    """Why it failed."""
    file: str | None = None
    examples: int | None = None
    difference: float | None = None
    """The largest difference from the predictions of `model.keras`."""
    tolerance: float | None = None
    agreement: float | None = None
    """Classification: the fraction of the compared examples for which it names the same class as `model.keras`."""
    accuracy: float | None = None
    keras_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """What a job found out, with its uncertainty."""

    test: Evaluation
    task: str | None = None
    labels: Sequence[str] | None = None
    cut_layer: str | None = None
    phases: Sequence[PhaseReport] = ()
    source: SourceReceipt | None = None
    ancestry: Mapping[str, object] | None = None
    """The jobs and the first source that its weights come from, and the jobs that it does again."""
    best_validation: Mapping[str, float] | None = None
    export_difference: float | None = None
    exports: Sequence[Export] = ()
    seconds: Mapping[str, float] | None = None
    versions: Mapping[str, str] | None = None
    device: str | None = None
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class ForkedFrom(Record):
    """Where a job that is a fork took its weights from."""

    job: str
    checkpoint: str


TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """One fine-tuning run."""

    id: str
    status: str
    """`validating_files`, `queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`."""
    model: str = ""
    """As requested: a model's or a file's id."""
    training_file: str = ""
    model_id: str | None = None
    """The model it trains from; for a file, the model that the file became."""
    dataset_id: str | None = None
    fine_tuned_model: str | None = None
    """The id of the result, once the job succeeded."""
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    error: Failure | None = None
    set_aside: Failure | None = None
    """Why the service itself has paused the job."""
    resume_at: float | None = None
    """From when on the service resumes what it has set aside, as soon as a worker has room."""
    cut: Mapping[str, object] | None = None
    head: object = None
    schedule: Sequence[Mapping[str, object]] = ()
    preset: str | None = None
    """Where the phases come from; `None`: they were given one by one."""
    batch_size: int | None = None
    exports: Sequence[str] = ()
    seed: int | None = None
    adjustments: Sequence[Mapping[str, object]] = ()
    """What the service changed in the job so that it could go on, such as smaller batches."""
    priority: str | None = None
    """`low`, `normal` or `high`."""
    max_seconds: float | None = None
    deadline_at: float | None = None
    retry_of: str | None = None
    """The job that this one does again."""
    forked_from: ForkedFrom | None = None
    suffix: str | None = None
    metadata: Mapping[str, str] | None = None
    stage: str | None = None
    """`loading_source`, `training`, `evaluating`, `exporting`; more may come."""
    phase: PhaseProgress | None = None
    progress: JobProgress | None = None
    attempt: Attempt | None = None
    cancel_requested_at: float | None = None
    pause_requested_at: float | None = None
    resume_fidelity: str | None = None
    """`exact`: interrupted or not, the result is the same to the last bit. `tolerance`: nearly the same."""
    allowed_actions: Sequence[str] = ()
    artifacts: Sequence[Artifact] = ()
    report: Report | None = None

    @property
    def finished(self) -> bool:
        """Whether the status is one that a job never leaves."""
        return self.status in TERMINAL


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """One line of a job's history. Numbers count from 1 without gaps, but for what `compacted` stands for."""

    number: int
    type: str
    """`message`, `metrics`, `stage`, `phase`, `status`, `resumed`, `checkpoint_refused`, `attempt_lost`, `adjusted`,
    `storage_full`, `compacted` (stands for the events `data["first"]` to `data["last"]`), `completed` (the last one);
    more may come."""
    message: str = ""
    level: str = "info"
    created_at: float = 0.0
    id: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """Weights that another job may begin with, or what an interrupted job goes on from."""

    id: str
    kind: str = "phase"
    """`phase`: all weights, in `artifact`. `resume`: kept until the job has ended, for the job itself."""
    attempt: int | None = None
    step_number: int = 0
    created_at: float = 0.0
    metrics: Mapping[str, float] | None = None
    phase: PhaseProgress | None = None
    artifact: Artifact | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(Record):
    """What one epoch measured."""

    number: int
    """Epochs since the start of the job, from 1."""
    metrics: Mapping[str, float]
    attempt: int = 1
    step: int = 0
    created_at: float = 0.0
    phase: PhaseProgress | None = None
