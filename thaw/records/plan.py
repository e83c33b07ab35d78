"""What a job would do, before it is one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thaw.records.record import Record


@dataclass(frozen=True, kw_only=True)
class LayerPlan(Record):
    """What one phase would do with one layer."""

    path: str
    class_name: str = ""
    part: str = "backbone"
    """`backbone`: reused from the source; `head`: new."""
    parameters: int = 0
    trained_parameters: int = 0
    state: str = "frozen"
    """`trains`, `held` (unfrozen, but BatchNormalization), `frozen`, or `weightless`."""
    because: str = ""
    learning_rate: float | None = None
    """What its weights really get, at its highest in the phase."""
    cached: bool = False
    """Whether it runs once for each example, not once in each epoch."""


@dataclass(frozen=True, kw_only=True)
class CachePlan(Record):
    """Whether what is below the boundary runs once instead of in every epoch."""

    applies: bool = False
    because: str = ""
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class MemoryPlan(Record):
    """Memory of the training process for one phase, estimated."""

    total_bytes: int
    weights_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TimePlan(Record):
    """How long one phase would take, estimated."""

    seconds: float
    start_seconds: float = 0.0
    epoch_seconds: float = 0.0
    origin: str = ""
    """`jobs`: measured in an earlier job; `probe`: reckoned from passes that were measured at registration."""
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class PhasePlan(Record):
    """What one phase would do."""

    name: str
    epochs: int
    steps: int | None = None
    """Optimizer steps of all these epochs."""
    optimizer: str = ""
    learning_rate: float | None = None
    learning_rate_schedule: str = "constant"
    unfrozen_layers: Sequence[str] = ()
    """Layers of the backbone that are unfrozen; the head always trains."""
    held_layers: Sequence[str] = ()
    """Of these, BatchNormalization that stays as it is."""
    frozen_layers: int = 0
    trainable_backbone_parameters: int = 0
    trainable_parameters: int | None = None
    """The same with the head's."""
    layers: Sequence[LayerPlan] = ()
    """Every layer, from the input to the output."""
    boundary: Sequence[str] = ()
    """Layers whose outputs pass from what is the same in every epoch to what is not."""
    cache: CachePlan | None = None
    memory: MemoryPlan | None = None
    time: TimePlan | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What a job would do."""

    phases: Sequence[PhasePlan]
    cut_layer: str | None = None
    """The last layer of the source that would be reused."""
    dropped_layers: Sequence[str] = ()
    output: str = ""
    seconds: float | None = None
    """All phases together, estimated."""
    warnings: Sequence[str] = ()
    spec: Mapping[str, object] | None = None
