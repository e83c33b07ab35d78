"""What a running job tells: stages, progress, metrics and events."""

from typing import Annotated, Literal

from pydantic import Field

from app.domain.base import Value
from app.domain.caching import CacheUse

Stage = Literal["loading_source", "caching_features", "training", "evaluating", "exporting"]
"""An open set on the wire: more may be added, and clients must not fail on an unknown one."""

Level = Literal["info", "warn", "error"]

ResumeFidelity = Literal["exact", "tolerance"]
"""Whether a job that was interrupted gets the very weights of an undisturbed one, or only nearly the same."""


class PhaseProgress(Value):
    """Where in the schedule a job is; `index` and `epoch` count from 1."""

    index: int
    """Place in the schedule, from 1."""
    name: str
    """As in the schedule."""
    epoch: int
    """From 1 in each phase."""
    epochs: int
    """Of this phase, at most."""


class StageStarted(Value):
    """A stage began."""

    type: Literal["stage"] = "stage"
    stage: Stage
    number: int = 1
    """Of the attempt's stages, from 1: one may come more than once, and may be told twice."""


class PhaseStarted(Value):
    """A phase was compiled and begins."""

    type: Literal["phase_started"] = "phase_started"
    phase: PhaseProgress
    trainable_parameters: int
    frozen_parameters: int
    cache: CacheUse | None = None
    """Whether frozen layers run once instead of once for each epoch."""


class StepFinished(Value):
    """Sent at most twice a second, so that progress moves inside a long epoch; `step` counts from 1 in its epoch."""

    type: Literal["step"] = "step"
    phase: PhaseProgress
    step: int
    steps: int


class EpochFinished(Value):
    """An epoch was trained and validated."""

    type: Literal["epoch"] = "epoch"
    phase: PhaseProgress
    step: int
    """Optimizer steps since the start of the job."""
    metrics: dict[str, float]
    """`loss`, `accuracy`, `val_loss`, … as Keras names them, and `learning_rate`, `seconds`."""


class FreezeProof(Value):
    """What was frozen stayed bit-identical, what was unfrozen moved."""

    phase: str
    """Its name."""
    frozen_variables: int
    """How many must not move, batch-norm statistics included."""
    frozen_digest_before: str
    """sha256 over all of their bytes."""
    frozen_digest_after: str
    """Equal to the one before, or something that should be still has moved."""
    trained_variables: int
    """How many should move."""
    moved_variables: int
    """Of the trained ones, those whose bytes changed."""
    held: bool
    """Whether nothing frozen moved."""


class PhaseFinished(Value):
    """A phase ended, its freeze proof holds."""

    type: Literal["phase_finished"] = "phase_finished"
    phase: PhaseProgress
    stopped_early: bool
    proof: FreezeProof
    checkpoint: str
    """Path of the weights at the end of the phase, relative to the working folder."""


class WeightsKept(Value):
    """The phase will not end, and weights from within it are kept."""

    type: Literal["weights_kept"] = "weights_kept"
    which: Literal["best", "last"] = "best"
    """`best`: those after its best epoch so far, as it diverged; `last`: those that it had, as its time is over."""
    phase: PhaseProgress
    """`epoch`: the one after which, or in which, they were like this."""
    step: int
    """Optimizer steps since the start of the job."""
    metrics: dict[str, float]
    """Of that epoch; empty within one."""
    checkpoint: str
    """Path of the weights, relative to the working folder."""


class CheckpointWritten(Value):
    """Everything needed to go on from here lies in a folder, synced."""

    type: Literal["checkpoint"] = "checkpoint"
    phase: PhaseProgress
    """`epoch`: the last one that ended, or the one in which the run was interrupted; 0: before the first."""
    number: int
    """Counts up in a working folder."""
    step: int
    """Optimizer steps since the start of the job."""
    metrics: dict[str, float]
    """Of the epoch that has just ended; empty within one."""
    folder: str
    """Path relative to the working folder."""
    files: list[str]
    """What lies in it."""
    fidelity: ResumeFidelity
    """What whoever goes on from it may expect, on the same kind of machine."""


class CheckpointRefused(Value):
    """A checkpoint is not what was written, so the one before it, or none, is used."""

    type: Literal["checkpoint_refused"] = "checkpoint_refused"
    name: str
    """Its folder."""
    reason: str
    """What is wrong with it, in a sentence."""


class Resumed(Value):
    """The run goes on from a checkpoint; told again where more turns out to be different than was known."""

    type: Literal["resumed"] = "resumed"
    phase: PhaseProgress
    """`epoch`: the one that is trained next; of a phase that has ended, its last."""
    step: int
    """Optimizer steps since the start of the job."""
    fidelity: ResumeFidelity
    differences: list[str]
    """What is not as it was when the checkpoint was written, such as `tensorflow 2.21.0, now 2.22.0`."""


Progress = Annotated[
    StageStarted
    | PhaseStarted
    | StepFinished
    | EpochFinished
    | PhaseFinished
    | WeightsKept
    | CheckpointWritten
    | CheckpointRefused
    | Resumed,
    Field(discriminator="type"),
]
"""Everything the engine reports; `Reporter.report` takes one of these."""
