"""Augmentation as data: what happens at random to training pictures, and to nothing else.

    picture ─ resize ─ augmentation, in the order of the list ─ rescale ─▶ source

Between resizing and rescaling, so that the same list means the same pictures whatever range the source wants. Only
batches of the training split are changed; validation, test and the exported model never are.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.domain.base import Value

MAX_AUGMENTATIONS = 20


class Flip(Value):
    """Mirrors each picture, or leaves it, by the throw of a coin."""

    type: Literal["flip"]
    """Names the kind of change."""
    mode: Literal["horizontal", "vertical", "both"] = "horizontal"
    """`horizontal`: left and right change places; `vertical`: top and bottom; `both`: a throw for either."""


class Crop(Value):
    """Cuts a part out of each picture at a random place, and blows it up to the full size."""

    type: Literal["crop"]
    """Names the kind of change."""
    scale: float = Field(default=0.8, ge=0.1, lt=1, examples=[0.8])
    """The smallest part, as a fraction of height and width; each picture's own lies between it and 1."""


class Zoom(Value):
    """Brings the middle of each picture nearer or moves it away; height and width alike."""

    type: Literal["zoom"]
    """Names the kind of change."""
    factor: float = Field(default=0.1, gt=0, le=0.9, examples=[0.1])
    """0.1: each picture shows from 90 % to 110 % of its height and width."""


class Translation(Value):
    """Shifts each picture."""

    type: Literal["translation"]
    """Names the kind of change."""
    factor: float = Field(default=0.1, gt=0, le=1, examples=[0.1])
    """0.1: by up to 10 % of the height up or down, and by up to 10 % of the width to either side."""


class Rotation(Value):
    """Turns each picture about its middle."""

    type: Literal["rotation"]
    """Names the kind of change."""
    degrees: float = Field(default=10, gt=0, le=180, examples=[10])
    """By up to so many degrees, either way."""


class Color(Value):
    """Changes brightness, contrast, saturation and hue of each picture, in this order."""

    type: Literal["color"]
    """Names the kind of change."""
    brightness: float = Field(default=0, ge=0, le=1, examples=[0.2])
    """0.2: every value up or down by up to 20 % of the range that values can have."""
    contrast: float = Field(default=0, ge=0, le=1, examples=[0.2])
    """0.2: distances from the picture's mean by a factor from 0.8 to 1.2."""
    saturation: float = Field(default=0, ge=0, lt=1, examples=[0.2])
    """0.2: saturation by a factor from 0.8 / 1.2 to 1.2 / 0.8. Needs pictures with three channels."""
    hue: float = Field(default=0, ge=0, le=1, examples=[0.05])
    """0.05: hue by up to 5 % of half the colour wheel, 9 degrees, either way. Needs pictures with three channels."""

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            message = "Give at least one of brightness, contrast, saturation, hue; all of them are 0"
            raise ValueError(message)
        return self

    @property
    def needs_channels(self) -> bool:
        """Whether it means anything for colour pictures alone."""
        return bool(self.saturation or self.hue)


class Mixup(Value):
    """Lays each picture over another one of its batch, and mixes their labels in the same parts (Zhang et al., 2018).

    The loss is that of the mixed label. The accuracy of training epochs counts a picture as right where the model
    names the class that has the larger part in it, so it is lower than on plain pictures: look at `val_accuracy`.
    """

    type: Literal["mixup"]
    """Names the kind of change; it must be the last of the list."""
    # Below 0.1 float32 cannot hold what Keras draws on the way, and every other picture would be mixed by half.
    alpha: float = Field(default=0.2, ge=0.1, le=10, examples=[0.2])
    """The part is drawn from Beta(alpha, alpha): 0.2 mostly leaves pictures nearly as they are, 1 mixes evenly."""


Augmentation = Annotated[
    Flip | Crop | Zoom | Translation | Rotation | Color | Mixup,
    Field(discriminator="type"),
]


def mixes(wishes: Sequence[Augmentation]) -> bool:
    """Whether labels are mixed too."""
    return any(isinstance(wish, Mixup) for wish in wishes)


def check_order(wishes: Sequence[Augmentation]) -> None:
    """`ValueError` where something follows `mixup`: what comes after it would change two pictures as one."""
    if mixes(wishes[:-1]):
        message = f"mixup must be the last of the list, once; received {[wish.type for wish in wishes]}"
        raise ValueError(message)
