"""What a job found out, with its uncertainty."""

from pydantic import Field

from app.domain.base import Value
from app.domain.progress import FreezeProof
from app.domain.spec import ResolvedSpec, Task


class Interval(Value):
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: str = "wilson"
    """`wilson` (Wilson 1927) for proportions; `bootstrap` for errors of a regression."""


class Evaluation(Value):
    """The one look at the test split, at the end of a job."""

    examples: int
    loss: float
    accuracy: Interval | None = None
    """Classification: the fraction of test examples that it got right."""
    mean_absolute_error: Interval | None = None
    """Regression, in the units of the target."""
    confusion_matrix: list[list[int]] | None = None
    """Rows are true classes, columns predicted ones, in the order of `labels`."""
    per_class: dict[str, dict[str, float]] | None = None
    """`precision`, `recall`, `f1`, `examples` for each class."""


class SourceReceipt(Value):
    """The source is what it was: digest of its architecture and weights before and after the job."""

    model_digest_before: str
    model_digest_after: str
    unchanged: bool


class PhaseReport(Value):
    """What one phase did."""

    name: str
    epochs_run: int
    stopped_early: bool
    trainable_parameters: int
    frozen_parameters: int
    seconds: float
    proof: FreezeProof


class Report(Value):
    """The record of a job that succeeded."""

    task: Task
    labels: list[str] | None
    spec: ResolvedSpec
    cut_layer: str
    dataset_digest: str
    source: SourceReceipt
    phases: list[PhaseReport]
    test: Evaluation
    best_validation: dict[str, float]
    """Metrics of the epoch with the lowest validation loss."""
    export_difference: float | None = None
    """Largest difference between the predictions of the written `model.keras`, read back, and the trained model's."""
    seconds: dict[str, float]
    """Wall time by stage, `until_first_step` (from the start of the run) and `total`."""
    versions: dict[str, str]
    """`thaw`, `keras`, `tensorflow`, `numpy`, `python`."""
    device: str = Field(examples=["cpu", "NVIDIA H200"])
    parameters: int
