"""What a job is asked to do: cut, head, schedule.

    source --cut--> backbone --head--> model --phase 1, phase 2, …--> result

A request may leave out the head and the schedule; `resolve` fills them in, and the job stores the
`ResolvedSpec`, which never says "default".
"""

from collections.abc import Sequence
from typing import Annotated, Literal, LiteralString

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.base import Value
from app.domain.caching import CacheWish
from app.domain.head import Head
from app.domain.optimizers import Sgd
from app.domain.phases import Phase

MAX_PHASES = 50

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

# === Preprocessing ===

Rescale = Literal["none", "zero_to_one", "minus_one_to_one", "imagenet_mean_std", "imagenet_bgr_mean"]
"""`none`: raw values; `zero_to_one`: x / 255; `minus_one_to_one`: x / 127.5 - 1; `imagenet_mean_std`: x / 255, minus
the mean and divided by the deviation of ImageNet's pictures in each channel; `imagenet_bgr_mean`: channels turned round
to blue, green, red, minus their means on ImageNet. Keras calls the last three `tf`, `torch` and `caffe`."""
COLOUR_RESCALES: frozenset[Rescale] = frozenset({"imagenet_mean_std", "imagenet_bgr_mean"})
"""Those that treat each channel in its own way: for pictures in red, green and blue only."""


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
    cache: CacheWish = Field(
        default="auto",
        description=(
            "Frozen layers give the same values in every epoch: `auto` runs them once where that is right and pays, "
            "`off` never does, `require` fails the job where it cannot."
        ),
    )
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Examples in each step."""
    preprocessing: Preprocessing = Preprocessing()
    """How raw examples become what the source expects."""
    backbone_weights: Literal["source", "random"] = Field(
        default="source",
        description="`random` trains the same architecture from new weights: the from-scratch baseline.",
    )

    @field_validator("schedule")
    @classmethod
    def _phases_follow(cls, value: list[Phase]) -> list[Phase]:
        for index, (before, phase) in enumerate(zip([None, *value], value, strict=False)):
            _check_succession(index, before, phase)
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Spec":
        names = [phase.name for phase in self.schedule if phase.name]
        if len(set(names)) < len(names):
            message = f"Phase names must differ from each other; received {names}"
            raise ValueError(message)
        return self


def _check_succession(index: int, before: Phase | None, phase: Phase) -> None:
    """What a phase takes over must be there."""
    if before is None:
        for field, value in (("optimizer_state", "carry"), ("start_from", "best")):
            if getattr(phase, field) == value:
                message = f"The first phase has no phase before it, so {field} cannot be '{value}'"
                raise _wrong(message, code="no_phase_before", at=[index, field])
    elif phase.optimizer_state == "carry" and phase.optimizer.type != before.optimizer.type:
        message = (
            f"optimizer_state 'carry' needs the optimizer of the phase before, '{before.optimizer.type}'; this phase "
            f"has '{phase.optimizer.type}'. Use '{before.optimizer.type}', or 'reset'"
        )
        raise _wrong(message, code="other_optimizer", at=[index, "optimizer_state"])


def _wrong(message: str, *, code: LiteralString, at: list[int | str]) -> PydanticCustomError:
    """An error in a field deep inside the one that is validated; `at` leads there."""
    return PydanticCustomError(code, "{message}", {"message": message, "at": at})


class ResolvedSpec(Spec):
    """A spec with its seed and all its phases named: what a job stores, and what the engine trains."""

    seed: int = Field(ge=0, le=2**31 - 1)
    """The same spec with the same seed gives the same weights on the same kind of machine."""


def resolve(spec: Spec, *, seed: int) -> ResolvedSpec:
    """Name every phase, fix the seed, and say what follows from random weights."""
    named = [_named(phase, index) for index, phase in enumerate(spec.schedule)]
    if spec.backbone_weights == "random":  # there are no statistics to keep
        named = [phase.model_copy(update={"batch_norm": "train"}) for phase in named]
    return ResolvedSpec(**{**{name: getattr(spec, name) for name in Spec.model_fields}, "schedule": named}, seed=seed)


def _named(phase: Phase, index: int) -> Phase:
    return phase if phase.name else phase.model_copy(update={"name": f"phase-{index + 1}"})


def total_epochs(schedule: Sequence[Phase]) -> int:
    """Epochs of all phases together, if none stops early."""
    return sum(phase.epochs for phase in schedule)
