"""The head: the new layers that a job puts on top of the backbone."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from app.domain.base import Value

MAX_HEAD_LAYERS = 50
VECTOR_RANK = 2
"""Of a batch of vectors."""

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

    def on(self, rank: int) -> list[HeadLayer]:
        """The layers on a backbone whose output has `rank` axes, the batch's included; vectors are not pooled again."""
        wishes: list[HeadLayer] = list(self.layers)
        if not (wishes and isinstance(wishes[0], HeadPooling | HeadFlatten)):
            wishes.insert(0, HeadPooling(type="global_average_pooling"))
        chosen: list[HeadLayer] = []
        for wish in wishes:
            if isinstance(wish, HeadPooling | HeadFlatten):
                if rank == VECTOR_RANK:
                    continue
                rank = VECTOR_RANK
            chosen.append(wish)
        return chosen


KEEP = "keep"

HeadChoice = Annotated[
    Annotated[Head, Tag("new")] | Annotated[Literal["keep"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "new"),
]
"""New layers, or the source's own output layer."""
