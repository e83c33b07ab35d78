"""What a job is asked to do: cut, head, schedule.

    source --cut--> backbone --head--> model --phase 1, phase 2, …--> result

A request may leave out the head and the schedule; `resolve` fills them in, and the job stores the
`ResolvedSpec`, which never says "default".
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from app.domain.base import Value
from app.domain.optimizers import Optimizer, Sgd

MAX_PHASES = 50
MAX_HEAD_LAYERS = 50
MAX_EPOCHS = 10_000

Task = Literal["binary", "single_label", "regression"]
"""What the output means: one sigmoid, one softmax, or linear numbers."""

# === Cut ===


class DropLast(Value):
    """Reuse all but the last `n` layers of the source (counted as `/v1/models/{id}/layers` lists them)."""

    drop_last: int = Field(ge=0, examples=[1])
    """How many layers are left out, counted from the output."""


class KeepFirst(Value):
    """Reuse the first `n` layers of the source, input layers included."""

    keep_first: int = Field(ge=1, examples=[12])
    """How many layers are kept, counted from the input."""


class CutLayer(Value):
    """Reuse everything up to and including the named layer; `outer/inner` names a layer of a nested model."""

    layer: str = Field(min_length=1, max_length=500, examples=["block_12_add"])
    """The last layer kept: a `path` of the layer table."""


class CutFraction(Value):
    """Reuse the first part of the source: of its layers this fraction, rounded to the nearest legal cut."""

    fraction: float = Field(gt=0, le=1, examples=[0.75])
    """How much of the source is kept."""


def _one_key(*keys: str) -> Discriminator:
    """Tell the members of a union apart by the one key that each has."""

    def tag(value: object) -> str | None:
        present = [key for key in keys if (key in value if isinstance(value, dict) else hasattr(value, key))]
        return present[0] if len(present) == 1 else None

    return Discriminator(
        tag,
        custom_error_type="one_of",
        custom_error_message=f"Give exactly one of {', '.join(keys)}",
        custom_error_context={"allowed": ", ".join(keys)},
    )


Cut = Annotated[
    Annotated[DropLast, Tag("drop_last")]
    | Annotated[KeepFirst, Tag("keep_first")]
    | Annotated[CutLayer, Tag("layer")]
    | Annotated[CutFraction, Tag("fraction")],
    _one_key("drop_last", "keep_first", "layer", "fraction"),
]

# === Head ===

Activation = Literal[
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "tanh", "sigmoid", "softplus"
]


class HeadDense(Value):
    """A fully connected layer."""

    type: Literal["dense"]
    """Names the kind of layer."""
    units: int = Field(ge=1, le=65_536, examples=[128])
    """Its outputs."""
    activation: Activation = "relu"
    """Applied to its outputs."""


class HeadDropout(Value):
    """Drops a part of its inputs while training."""

    type: Literal["dropout"]
    """Names the kind of layer."""
    rate: float = Field(ge=0, lt=1, examples=[0.2])
    """Which part of its inputs."""


class HeadBatchNormalization(Value):
    """Normalizes each batch while training, and with running statistics afterwards."""

    type: Literal["batch_normalization"]
    """Names the kind of layer."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """How slowly the running statistics follow the batches."""


class HeadLayerNormalization(Value):
    """Normalizes each example by itself."""

    type: Literal["layer_normalization"]
    """Names the kind of layer."""


class HeadActivation(Value):
    """An activation alone."""

    type: Literal["activation"]
    """Names the kind of layer."""
    activation: Activation
    """Which one."""


class HeadPooling(Value):
    """Reduces a feature map or a sequence to one vector for each example."""

    type: Literal["global_average_pooling", "global_max_pooling"]
    """Names the kind of layer."""


class HeadFlatten(Value):
    """Lays a feature map out as one vector for each example."""

    type: Literal["flatten"]
    """Names the kind of layer."""


HeadLayer = Annotated[
    HeadDense
    | HeadDropout
    | HeadBatchNormalization
    | HeadLayerNormalization
    | HeadActivation
    | HeadPooling
    | HeadFlatten,
    Field(discriminator="type"),
]


class Head(Value):
    """The new layers on top of the backbone. The output layer is added by the dataset's task.

    Where the backbone gives more than one vector per example and the list does not begin with pooling or
    `flatten`, global average pooling is put in front.
    """

    layers: list[HeadLayer] = Field(default_factory=list, max_length=MAX_HEAD_LAYERS)
    """From the backbone upwards, without the output layer; empty: the output layer alone."""


# === Phases ===


class UnfreezeLast(Value):
    """The last `n` layers of the backbone that have weights."""

    last: int = Field(ge=1, examples=[5])
    """How many, counted from the cut down."""


class UnfreezeFrom(Value):
    """The named layer of the backbone and all that come after it."""

    from_layer: str = Field(min_length=1, max_length=500, examples=["block_12_expand"])
    """The lowest layer that trains: a `path` of the layer table."""


class UnfreezeMatch(Value):
    """Every layer of the backbone whose path matches this regular expression (`re.search`)."""

    match: str = Field(min_length=1, max_length=200, examples=["^block_1[2-6]_"])
    """The regular expression."""


class UnfreezeFraction(Value):
    """The last part of the backbone: of its layers that have weights this fraction, rounded up."""

    fraction: float = Field(gt=0, le=1, examples=[0.2])
    """How much of the backbone trains."""


Unfreeze = Annotated[
    Annotated[Literal["none", "all"], Tag("word")]
    | Annotated[UnfreezeLast, Tag("last")]
    | Annotated[UnfreezeFrom, Tag("from_layer")]
    | Annotated[UnfreezeMatch, Tag("match")]
    | Annotated[UnfreezeFraction, Tag("fraction")],
    Discriminator(
        lambda value: (
            "word"
            if isinstance(value, str)
            else next(
                (
                    key
                    for key in ("last", "from_layer", "match", "fraction")
                    if (key in value if isinstance(value, dict) else hasattr(value, key))
                ),
                None,
            )
        ),
        custom_error_type="one_of",
        custom_error_message='Give "none", "all", or exactly one of last, from_layer, match, fraction',
        custom_error_context={"allowed": "none, all, last, from_layer, match, fraction"},
    ),
]


class EarlyStopping(Value):
    """Ends a phase when the validation loss has not fallen for `patience` epochs."""

    monitor: Literal["val_loss"] = "val_loss"
    """What is watched."""
    patience: int = Field(default=3, ge=1, le=1000)
    """Epochs without improvement before the phase ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """A smaller fall is no improvement."""
    restore_best: bool = True
    """Whether the phase ends with the weights of its best epoch rather than of its last."""


class Phase(Value):
    """What is unfrozen, for how long, with which optimizer. The head always trains."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.\-]{0,63}$", examples=["head"])
    """Shown in events and reports; `phase-1`, `phase-2`, … if left out."""
    unfreeze: Unfreeze = "none"
    """Which layers of the backbone train: `none`, `all`, the last ones, from one on, or those that match."""
    epochs: int = Field(ge=1, le=MAX_EPOCHS, examples=[4])
    """How often all training examples are seen, at most."""
    optimizer: Optimizer = Field(default=Sgd(type="sgd", learning_rate=0.01))
    """What changes the weights, and how fast. Each phase starts with a fresh one."""
    early_stopping: EarlyStopping | None = None
    """Whether the phase may end before its epochs are over; `null`: it does not."""


# === Preprocessing ===

Rescale = Literal["none", "zero_to_one", "minus_one_to_one"]
"""`none`: raw values; `zero_to_one`: x / 255; `minus_one_to_one`: x / 127.5 - 1."""


class Preprocessing(Value):
    """How raw examples become what the source expects; exported inside the result."""

    rescale: Rescale | None = None
    """`null`: what the source was registered with, else `zero_to_one` for 8-bit images and `none` otherwise."""
    image_size: tuple[int, int] | None = None
    """Height and width; `null`: what the source expects, else the size of the dataset's images."""

    @field_validator("image_size")
    @classmethod
    def _sane_size(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(8 <= side <= 2048 for side in value):
            message = "image_size must be [height, width], each from 8 to 2048"
            raise ValueError(message)
        return value


# === Spec ===

TEXTBOOK_SCHEDULE = (
    Phase(name="head", unfreeze="none", epochs=4, optimizer=Sgd(type="sgd", learning_rate=0.01)),
    Phase(name="all", unfreeze="all", epochs=16, optimizer=Sgd(type="sgd", learning_rate=0.0001)),
)
"""Train the head on frozen layers, then everything, slowly: the recipe of the Keras transfer learning guide."""


class Spec(Value):
    """How to fine-tune, whatever the source and the dataset. Everything has the textbook recipe as default."""

    cut: Cut = Field(default=DropLast(drop_last=1), description="Up to which layer the source is reused.")
    head: Head = Field(default=Head(), description="The new layers on top; the output layer is added by the task.")
    schedule: list[Phase] = Field(
        default=list(TEXTBOOK_SCHEDULE), min_length=1, max_length=MAX_PHASES, description="The phases, in order."
    )
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Examples in each step."""
    preprocessing: Preprocessing = Preprocessing()
    """How raw examples become what the source expects."""
    backbone_weights: Literal["source", "random"] = Field(
        default="source",
        description="`random` trains the same architecture from new weights: the from-scratch baseline.",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Spec":
        names = [phase.name for phase in self.schedule if phase.name]
        if len(set(names)) < len(names):
            message = f"Phase names must differ from each other; received {names}"
            raise ValueError(message)
        return self


class ResolvedSpec(Spec):
    """A spec with its seed and all its phases named: what a job stores, and what the engine trains."""

    seed: int = Field(ge=0, le=2**31 - 1)
    """The same spec with the same seed gives the same weights on the same kind of machine."""


def resolve(spec: Spec, *, seed: int) -> ResolvedSpec:
    """Name every phase and fix the seed."""
    named = [_named(phase, index) for index, phase in enumerate(spec.schedule)]
    return ResolvedSpec(**{**{name: getattr(spec, name) for name in Spec.model_fields}, "schedule": named}, seed=seed)


def _named(phase: Phase, index: int) -> Phase:
    return phase if phase.name else phase.model_copy(update={"name": f"phase-{index + 1}"})


def total_epochs(schedule: Sequence[Phase]) -> int:
    """Epochs of all phases together, if none stops early."""
    return sum(phase.epochs for phase in schedule)
