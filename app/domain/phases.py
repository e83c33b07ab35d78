"""Phases: what is unfrozen, for how long, with which optimizer."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core.core_schema import ValidationInfo

from app.domain.base import Value
from app.domain.learning_rates import ConstantRate, LearningRateSchedule
from app.domain.optimizers import Optimizer, Sgd

MAX_EPOCHS = 10_000
MAX_ACCUMULATION = 1024


Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]


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
    """What changes the weights, and how fast."""
    optimizer_state: Literal["reset", "carry"] = "reset"
    """`carry`: go on with the moments and the step count of the phase before, which must have the same type of
    optimizer; weights that are newly unfrozen start with fresh moments. `reset`: start with a fresh optimizer."""
    start_from: Literal["last", "best"] = "last"
    """`best`: start from the weights that the phase before had after its epoch with the lowest validation loss; `last`:
    from those that it ended with."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether BatchNormalization of unfrozen layers of the backbone trains, statistics included; frozen layers' never
    does. With `backbone_weights: random` there is nothing to keep, and it always trains."""
    learning_rate_schedule: LearningRateSchedule = Field(default=ConstantRate(type="constant"))
    """How the optimizer's learning rate moves from step to step."""
    gradient_accumulation: int = Field(default=1, ge=1, le=MAX_ACCUMULATION)
    """So many batches make one step: their gradients are averaged over all of their examples. The last step of an epoch
    takes what is left, be it less."""
    layer_decay: float | None = Field(default=None, gt=0, le=1, examples=[0.9])
    """Discriminative learning rates: the topmost unfrozen layer of the backbone gets the learning rate times this, the
    one below it times this once more, and so on; the head gets all of it. `null`: so do all layers."""
    early_stopping: EarlyStopping | None = None
    """Whether the phase may end before its epochs are over; `null`: it does not."""

    @field_validator("learning_rate_schedule")
    @classmethod
    def _warms_up_in_time(cls, value: LearningRateSchedule, info: ValidationInfo) -> LearningRateSchedule:
        epochs = info.data.get("epochs")  # missing where it is wrong itself
        if epochs is not None and value.warmup_epochs is not None and value.warmup_epochs > epochs:
            message = f"warmup_epochs {value.warmup_epochs:g} is longer than the phase, which has {epochs} epochs"
            raise ValueError(message)
        return value


def shortened(phase: Phase, epochs: int) -> Phase:
    """The phase with fewer epochs, and a warm-up that is as much of them as it was."""
    rates = phase.learning_rate_schedule
    if rates.warmup_epochs is not None:
        rates = rates.model_copy(update={"warmup_epochs": rates.warmup_epochs * epochs / phase.epochs})
    return Phase(**{**dict(phase), "epochs": epochs, "learning_rate_schedule": rates})
