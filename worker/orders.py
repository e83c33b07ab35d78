"""Orders: what a child process is asked to do. They go down to it; `worker.messages` come back."""

from dataclasses import dataclass, field
from pathlib import Path

from app.domain.ancestry import Ancestry
from app.domain.dataset import DatasetInfo, DatasetOptions
from app.domain.model import ModelOptions
from app.domain.spec import ResolvedSpec


@dataclass(frozen=True)
class TrainOrder:
    """Train a job; `source` and `data` are canonical folders."""

    spec: ResolvedSpec
    source: Path
    data: Path
    features: Path | None = None
    """Where the jobs of this machine share cached features; `None`: this job keeps its own."""
    features_bytes: int = 0
    """What all of them together may take."""
    ancestry: Ancestry | None = None
    """Where the job comes from, for its report."""


@dataclass(frozen=True)
class RegisterOrder:
    """Check a model file and write its canonical form."""

    upload: Path
    options: ModelOptions
    max_parameters: int


@dataclass(frozen=True)
class BuildOrder:
    """Build a model by its name and write its canonical form: the one task that may need the network."""

    reference: str
    options: ModelOptions
    max_parameters: int
    max_bytes: int
    """Of a file that is fetched."""


@dataclass(frozen=True)
class RestoreOrder:
    """Make a model of a job's checkpoint; `source` is a canonical folder, `weights` a safetensors file."""

    checkpoint_id: str
    spec: ResolvedSpec
    source: Path
    weights: Path
    data: DatasetInfo
    options: ModelOptions


@dataclass(frozen=True)
class ValidateOrder:
    """Check a data file and write its canonical form."""

    upload: Path
    options: DatasetOptions
    max_unpacked_bytes: int


@dataclass(frozen=True)
class SelfTestOrder:
    """Try out what training relies on; `again`: only the job whose bits are compared with another process's."""

    again: bool = False


Task = TrainOrder | RegisterOrder | BuildOrder | RestoreOrder | ValidateOrder | SelfTestOrder


@dataclass(frozen=True)
class Order:
    """A task and the surroundings in which it is done."""

    task: Task
    folder: Path
    """The attempt's own folder: working directory, results, temporary files and `output.log`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Set before TensorFlow looks for devices."""
    memory_bytes: int = 0
    """The kernel refuses the process more writable memory than this; 0: no limit."""
    start_method: str = "forkserver"
