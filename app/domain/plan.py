"""Plans: what a job would do, phase by phase and layer by layer, and what it would cost."""

from typing import Literal

from pydantic import Field

from app.domain.base import Value
from app.domain.spec import ResolvedSpec

LayerState = Literal["trains", "held", "frozen", "weightless"]
"""`held`: unfrozen, but BatchNormalization that stays as it is; `weightless`: nothing to train or freeze."""
Part = Literal["backbone", "head"]
Origin = Literal["jobs", "probe"]
"""`jobs`: measured in an earlier job; `probe`: reckoned from passes that were measured at registration."""

NOTHING_STILL = "no frozen layer with weights stands below what trains or draws at random"
"""Why a phase has no cache, even where the job requires one."""


class LayerPlan(Value):
    """What one phase would do with one layer."""

    path: str = Field(examples=["block_12_add"])
    """As in the layer table; layers of the head have the names that they get."""
    class_name: str = Field(examples=["Conv2D"])
    """Of Keras."""
    part: Part
    """`backbone`: reused from the source; `head`: new."""
    parameters: int
    """Numbers in its weights."""
    trained_parameters: int
    """Of these, how many train."""
    state: LayerState
    """What happens to its weights."""
    because: str = Field(examples=["not unfrozen"])
    """Why, in a few words."""
    learning_rate: float | None = None
    """The rate that its weights really get, at its highest in the phase; `null` where nothing trains."""
    cached: bool = False
    """Whether it runs once for each example, not once in each epoch."""


class CachePlan(Value):
    """Whether what is below the boundary runs once instead of in every epoch."""

    applies: bool
    """Whether it does."""
    because: str
    """Why, or why not, in words."""
    bytes: int | None = None
    """Room for the boundary tensors of all training and validation examples; `null` where none is taken or their size
    is not known."""


class MemoryPlan(Value):
    """Memory of the training process for one phase, estimated: what is counted here and nothing else."""

    weights_bytes: int
    """All weights, in float32."""
    gradients_bytes: int
    """One number for each that trains."""
    optimizer_bytes: int
    """What the optimizer keeps for each weight that trains."""
    activations_bytes: int | None
    """Outputs of a batch: of all layers that gradients pass, and of the two largest neighbours elsewhere; `null` where
    the size of the inputs is not known."""
    total_bytes: int
    """All of these together. Not counted: Keras and TensorFlow themselves (about 500 MB), the dataset, the cache."""


class TimePlan(Value):
    """How long one phase would take, estimated."""

    seconds: float
    """The whole phase, if it does not stop early."""
    start_seconds: float
    """Of that, before the first step: preparing the training step and, where the cache applies, filling it."""
    epoch_seconds: float
    """Of that, each epoch, validation included."""
    origin: Origin
    """What it was told from."""
    device: str = Field(examples=["cpu"])
    """Where that was measured; another one may be faster or slower."""


class PhasePlan(Value):
    """What one phase would do."""

    name: str
    """As in the schedule."""
    epochs: int
    """At most."""
    steps: int
    """Optimizer steps of all these epochs."""
    optimizer: str
    """Its `type`."""
    learning_rate: float
    """Of its optimizer."""
    learning_rate_schedule: str = Field(examples=["cosine"])
    """How that moves from step to step: its `type`."""
    unfrozen_layers: list[str]
    """Layers of the backbone that are unfrozen; the head always trains."""
    held_layers: list[str]
    """Of the unfrozen ones, those that stay as they are nevertheless, because they are BatchNormalization."""
    frozen_layers: int
    """Layers of the backbone that stay as they are, of those that have weights."""
    trainable_backbone_parameters: int
    """Numbers in the backbone's weights that train."""
    trainable_parameters: int
    """The same with the head's."""
    layers: list[LayerPlan]
    """Every layer, from the input to the output."""
    boundary: list[str]
    """Layers whose outputs pass from what is the same in every epoch to what is not; several where branches cross."""
    cache: CachePlan
    """Whether the part below the boundary runs once."""
    memory: MemoryPlan
    """How much memory it would take."""
    time: TimePlan | None = None
    """How long it would take; `null` where nothing was measured that this could be told from."""


class Plan(Value):
    """What a job would do: the resolved spec and what is worth knowing before it starts."""

    spec: ResolvedSpec
    """Everything that the job would do, defaults filled in."""
    cut_layer: str | None
    """The last layer that would be reused, and what is dropped."""
    dropped_layers: list[str]
    """What is above the cut, from below."""
    output: str
    """The output layer in words: `softmax over 6 classes`."""
    phases: list[PhasePlan]
    """What each phase would do."""
    seconds: float | None = None
    """All phases together; `null` where that is not known of one of them."""
    warnings: list[str]
    """What may be a mistake, in sentences."""
