"""What a job is asked to do: cut, head, schedule.

    source --cut--> backbone --head--> model --phase 1, phase 2, …--> result

A request may leave out the head and the schedule; `resolve` fills them in, and the job stores the
`ResolvedSpec`, which never says "default".
"""

from collections.abc import Sequence
from typing import Annotated, Literal, LiteralString

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.augmentation import MAX_AUGMENTATIONS, Augmentation, check_order
from app.domain.base import Value
from app.domain.caching import CacheWish
from app.domain.exports import ExportFormat
from app.domain.head import KEEP, Head, HeadChoice
from app.domain.phases import Phase
from app.domain.presets import Preset, PresetName, named

MAX_PHASES = 50

Task = Literal["binary", "single_label", "multi_label", "regression"]
"""What the output means: one sigmoid, one softmax, a sigmoid for each label, or linear numbers."""

ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
ClassWeights = Annotated[Literal["balanced"] | dict[str, ClassWeight] | None, Field(max_length=10_000)]
MixedPrecision = Literal["off", "bfloat16", "float16"]

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


# === Schedule ===


def _form(value: object) -> str | None:
    """How a schedule is given."""
    if isinstance(value, list | tuple):
        return "phases"
    if isinstance(value, str):
        return "word"
    return "options" if isinstance(value, dict) or hasattr(value, "preset") else None


Schedule = Annotated[
    Annotated[list[Phase], Field(min_length=1, max_length=MAX_PHASES), Tag("phases")]
    | Annotated[PresetName, Tag("word")]
    | Annotated[Preset, Tag("options")],
    Discriminator(
        _form,
        custom_error_type="schedule_form",
        custom_error_message='Give a list of phases, the name of a preset, or {{"preset": name, …}} with options',
    ),
]

# === Spec ===


class Spec(Value):
    """How to fine-tune, whatever the source and the dataset. Everything has the textbook recipe as default."""

    cut: Cut = Field(default=DropLast(drop_last=1), description="Up to which layer the source is reused.")
    head: HeadChoice = Field(
        default=Head(),
        description=(
            "The new layers on top; the output layer is added by the task. `keep`: the source's own output layer, "
            "where it fits the task; it trains like a head, and needs `cut: {drop_last: 0}`."
        ),
    )
    schedule: Schedule = Field(
        default="two_phase",
        description=(
            "The phases, in order; or the name of a preset; or a preset with options. The job shows the phases that a "
            "preset stands for."
        ),
        examples=["fine_tune", {"preset": "gradual", "blocks": 3}],
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
    class_weights: ClassWeights = Field(
        default=None,
        description=(
            "How much an example counts in training, by the name of its class; classes that are not named count 1. "
            "`balanced`: classes count the same in sum, however many examples they have. `null`: all examples count 1."
        ),
        examples=["balanced", {"sandal": 2.0}],
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, examples=[0.1])
    """In training, so much of each label is spread evenly over all classes (Szegedy et al., 2015)."""
    mixed_precision: MixedPrecision = Field(
        default="off",
        description=(
            "Compute layers in this type, while weights stay float32; worth it on GPUs. `float16` scales its losses so "
            "that small gradients do not vanish. The result computes in float32 throughout."
        ),
    )
    preprocessing: Preprocessing = Preprocessing()
    """How raw examples become what the source expects."""
    augmentation: list[Augmentation] = Field(
        default_factory=list,
        max_length=MAX_AUGMENTATIONS,
        description=(
            "What happens at random to training pictures, in this order, after they are resized and before they are "
            "rescaled; never to validation, test or the exported model. What happens to a picture follows from seed, "
            "epoch and step alone. Every epoch then has pictures of its own, so the output of frozen layers cannot be "
            "kept from one epoch to the next: augmentation switches that cache off."
        ),
        examples=[[{"type": "flip", "mode": "horizontal"}, {"type": "rotation", "degrees": 10}]],
    )
    backbone_weights: Literal["source", "random"] = Field(
        default="source",
        description="`random` trains the same architecture from new weights: the from-scratch baseline.",
    )

    exports: list[ExportFormat] = Field(
        default_factory=list,
        max_length=4,
        description="Formats of the result beside `model.keras`; each is compared with it on test examples.",
        examples=[["saved_model", "onnx"]],
    )

    @field_validator("schedule")
    @classmethod
    def _phases_follow(cls, value: Schedule) -> Schedule:
        check_schedule(value)
        return value

    @field_validator("augmentation")
    @classmethod
    def _mixup_comes_last(cls, value: list[Augmentation]) -> list[Augmentation]:
        check_order(value)
        return value

    @field_validator("exports")
    @classmethod
    def _each_export_once(cls, value: list[ExportFormat]) -> list[ExportFormat]:
        return list(dict.fromkeys(value))

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Spec":
        check_names(phases_of(self))
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "Spec":
        if self.head == KEEP and self.cut != DropLast(drop_last=0):
            message = (
                "head 'keep' keeps the source's output layer, so nothing may be cut: set cut to {\"drop_last\": 0}"
            )
            raise _wrong(message, code="head_needs_no_cut", at=["head"])
        given = "backbone_weights" in self.model_fields_set and self.backbone_weights == "source"
        if given and preset_of(self) == "from_scratch":
            message = (
                "The preset 'from_scratch' trains from random weights; leave backbone_weights out, or say 'random'"
            )
            raise _wrong(message, code="random_weights", at=["backbone_weights"])
        return self


def phases_of(spec: Spec) -> list[Phase]:
    """The phases of the schedule, as given or as its preset says."""
    if isinstance(spec.schedule, list):
        return spec.schedule
    return (named(spec.schedule) if isinstance(spec.schedule, str) else spec.schedule).phases()


def preset_of(spec: Spec) -> PresetName | None:
    """The name of the preset, if the schedule is one."""
    if isinstance(spec.schedule, list):
        return spec.preset if isinstance(spec, ResolvedSpec) else None
    return spec.schedule if isinstance(spec.schedule, str) else spec.schedule.preset


def check_schedule(schedule: Schedule) -> None:
    """Raise what Pydantic makes an error of, if phases that are given one by one do not go together."""
    phases = schedule if isinstance(schedule, list) else []
    for index, (before, phase) in enumerate(zip([None, *phases], phases, strict=False)):
        _check_succession(index, before, phase)


def check_names(phases: Sequence[Phase]) -> None:
    """Raise what Pydantic makes an error of, if two phases have one name, be it given or not."""
    names = [_named(phase, index).name for index, phase in enumerate(phases)]
    if len(set(names)) < len(names):
        message = (
            f"Phase names must differ from each other, and a phase without one is named by its place; received {names}"
        )
        raise ValueError(message)


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


class Adjustment(Value):
    """A change that Thaw made to a job by itself, so that it could go on."""

    reason: Literal["out_of_memory"]
    """Why."""
    batch_size_before: int = Field(examples=[32])
    """Examples that went through the network at once."""
    batch_size: int = Field(examples=[16])
    """Examples that do so now; `gradient_accumulation` of each phase makes up for it."""
    comparable: bool
    """Whether the optimizer sees what it would have seen, but for the order of sums; `false` where BatchNormalization
    trains, as mean and variance are those of the smaller batches."""


class ResolvedSpec(Spec):
    """A spec with its seed and all its phases named: what a job stores, and what the engine trains."""

    schedule: list[Phase] = Field(min_length=1, max_length=MAX_PHASES)
    """The phases, in order."""
    preset: PresetName | None = None
    """The preset that the phases come from; `None`: they were given one by one."""
    seed: int = Field(ge=0, le=2**31 - 1)
    """The same spec with the same seed gives the same weights on the same kind of machine."""
    adjustments: list[Adjustment] = Field(default_factory=list)
    """What Thaw itself changed in the job since it was sent, so that it could go on; empty: nothing."""


def resolve(spec: Spec, *, seed: int) -> ResolvedSpec:
    """Expand the preset, name every phase, fix the seed, and say what follows from random weights."""
    fields = {name: getattr(spec, name) for name in Spec.model_fields}
    preset = preset_of(spec)
    if preset == "from_scratch":
        fields["backbone_weights"] = "random"
    phases = [_named(phase, index) for index, phase in enumerate(phases_of(spec))]
    if fields["backbone_weights"] == "random":  # there are no statistics to keep
        phases = [phase.model_copy(update={"batch_norm": "train"}) for phase in phases]
    return ResolvedSpec(**{**fields, "schedule": phases}, preset=preset, seed=seed)


def _named(phase: Phase, index: int) -> Phase:
    return phase if phase.name else phase.model_copy(update={"name": f"phase-{index + 1}"})


def total_epochs(schedule: Sequence[Phase]) -> int:
    """Epochs of all phases together, if none stops early."""
    return sum(phase.epochs for phase in schedule)
