"""What a job found out, with its uncertainty."""

from pydantic import Field

from app.domain.ancestry import Ancestry
from app.domain.base import Value
from app.domain.caching import CacheUse
from app.domain.exports import Export, ExportedInput
from app.domain.progress import FreezeProof
from app.domain.spec import ResolvedSpec, Task


class Interval(Value):
    """A value with its 95 % confidence interval."""

    value: float
    """What was measured."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    method: str = "wilson"
    """`wilson` (Wilson 1927) for proportions; `bootstrap` for errors of a regression and means of fractions."""


class Evaluation(Value):
    """The one look at the test split, at the end of a job."""

    examples: int
    """In the test split."""
    loss: float
    """Of the last weights, on the test split."""
    accuracy: Interval | None = None
    """One class for each example: the fraction of test examples that it got right."""
    exact_match: Interval | None = None
    """Several labels for each example: the fraction of test examples of which it got all labels right."""
    label_accuracy: Interval | None = None
    """Several labels for each example: the fraction of labels that it got right, on average over test examples."""
    mean_absolute_error: Interval | None = None
    """Regression, in the units of the target."""
    confusion_matrix: list[list[int]] | None = None
    """Rows are true classes, columns predicted ones, in the order of `labels`; `None` for several labels at once."""
    per_class: dict[str, dict[str, float]] | None = None
    """`precision`, `recall`, `f1`, `examples` for each class."""


class SourceReceipt(Value):
    """The source is what it was: digest of its architecture and weights before and after the job."""

    model_digest_before: str
    """sha256 over architecture and weights."""
    model_digest_after: str
    """The same, when the job was done."""
    unchanged: bool
    """Whether they are equal."""


class PhaseReport(Value):
    """What one phase did."""

    name: str
    """As in the schedule."""
    epochs_run: int
    """How many there were; early stopping may make them fewer than planned."""
    stopped_early: bool
    """Whether the validation loss had stopped falling."""
    trainable_parameters: int
    """Numbers in the weights that trained."""
    frozen_parameters: int
    """Numbers in the weights that did not."""
    seconds: float
    """Wall time."""
    proof: FreezeProof
    """That what was frozen did not move."""
    cache: CacheUse | None = None
    """Whether frozen layers ran once instead of once for each epoch; `null` in reports of older jobs."""


class Report(Value):
    """The record of a job that succeeded."""

    task: Task
    """What was learned."""
    labels: list[str] | None
    """Names of the outputs, in order; `None` for regression."""
    spec: ResolvedSpec
    """What was asked for, in full."""
    cut_layer: str
    """The last layer of the source that was reused."""
    dataset_digest: str
    """Equal digests are equal datasets."""
    source: SourceReceipt
    """That the source is what it was."""
    ancestry: Ancestry | None = None
    """Which jobs and which first source its weights come from; `null` in reports of older jobs."""
    phases: list[PhaseReport]
    """What each phase did."""
    class_weights: dict[str, float] | None = None
    """What examples of each class counted in training; `None`: all the same."""
    test: Evaluation
    """The one look at the test split."""
    best_validation: dict[str, float]
    """Metrics of the epoch with the lowest validation loss."""
    export_difference: float | None = None
    """Largest difference between the predictions of the written `model.keras`, read back, and the trained model's."""
    inputs: list[ExportedInput] = Field(default_factory=list)
    """What `model.keras` takes: raw examples."""
    exports: list[Export] = Field(default_factory=list)
    """What became of the other formats that the job asked for."""
    seconds: dict[str, float]
    """Wall time by stage, `until_first_step` (from the start of the run) and `total`."""
    versions: dict[str, str]
    """`thaw`, `keras`, `tensorflow`, `numpy`, `python`."""
    device: str = Field(examples=["cpu", "NVIDIA H200"])
    """What it trained on."""
    parameters: int
    """Numbers in the weights of the result."""
