"""Learning rates: how one moves during a phase, and what of it each layer gets.

    rate of a layer at a step = learning_rate ─ schedule ─▶ rate of the step x factor of the layer

A schedule is a few segments that follow each other; each goes from one rate to another in one of three shapes. All
rates are a pure function of the step within the phase, counted from 0, so that a resumed phase needs nothing but its
step. A segment's `end` is where the next one begins; the last one's is what would follow the last step, as in Keras
and PyTorch, so that no step is lost on a rate of zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.domain.base import Value

if TYPE_CHECKING:
    from app.domain.model import LayerRow

MAX_WARMUP_EPOCHS = 10_000.0
ONE_CYCLE_WARMUP = 0.25
"""Of the phase; as in fastai's `fit_one_cycle`."""

# === What a phase may say ===


class _Schedule(Value):
    """What all schedules share."""

    warmup_epochs: float = Field(default=0.0, ge=0, le=MAX_WARMUP_EPOCHS, examples=[0.5])
    """The rate rises in a straight line for so long first; fractions are of an epoch's steps."""


class ConstantRate(_Schedule):
    """The optimizer's rate throughout."""

    type: Literal["constant"]
    """Names the schedule."""


class CosineRate(_Schedule):
    """The rate falls along half a cosine until the end of the phase (Loshchilov and Hutter, 2016)."""

    type: Literal["cosine"]
    """Names the schedule."""
    end_factor: float = Field(default=0.0, ge=0, le=1)
    """Where it ends, as a part of the optimizer's rate."""


class OneCycleRate(Value):
    """The rate rises to the optimizer's and falls to almost nothing, along half a cosine each (Smith, 2018)."""

    type: Literal["one_cycle"]
    """Names the schedule."""
    warmup_epochs: float | None = Field(default=None, ge=0, le=MAX_WARMUP_EPOCHS, examples=[0.5])
    """How long the rate rises; `null`: a quarter of the phase."""
    start_factor: float = Field(default=0.04, gt=0, le=1)
    """Where it starts, as a part of the optimizer's rate."""
    end_factor: float = Field(default=1e-5, ge=0, le=1)
    """Where it ends, as a part of the optimizer's rate."""


class ExponentialRate(_Schedule):
    """The rate falls by the same fraction at each step until the end of the phase."""

    type: Literal["exponential"]
    """Names the schedule."""
    end_factor: float = Field(default=0.01, gt=0, le=1)
    """Where it ends, as a part of the optimizer's rate."""


LearningRateSchedule = Annotated[
    ConstantRate | CosineRate | OneCycleRate | ExponentialRate, Field(discriminator="type")
]

# === Over the steps of a phase ===

Shape = Literal["linear", "cosine", "exponential"]


@dataclass(frozen=True)
class Segment:
    """From the step `first` on the rate goes from `begin` to `end`, which it would reach `steps` later."""

    first: int
    steps: int
    begin: float
    end: float
    shape: Shape


def segments(
    schedule: LearningRateSchedule, *, learning_rate: float, epochs: int, steps_per_epoch: int
) -> list[Segment]:
    """The rates of a phase of so many epochs, each of so many optimizer steps; `learning_rate` is its optimizer's."""
    steps = epochs * steps_per_epoch
    rise = min(round(_warmup_epochs(schedule, epochs) * steps_per_epoch), steps)
    found = [_rise(schedule, learning_rate, rise), _fall(schedule, learning_rate, rise, steps - rise)]
    return [segment for segment in found if segment.steps] or found[1:]


def rate_at(rates: Sequence[Segment], step: int) -> float:
    """The rate of a step, counted from 0; after the last segment its end."""
    segment = next((found for found in reversed(rates) if found.first <= step), rates[0])
    done = min((step - segment.first) / segment.steps, 1.0) if segment.steps else 1.0
    match segment.shape:
        case "linear":
            return segment.begin + (segment.end - segment.begin) * done
        case "cosine":
            return segment.end + (segment.begin - segment.end) * (1 + math.cos(math.pi * done)) / 2
        case "exponential":
            return segment.begin * math.pow(segment.end / segment.begin, done)


def _warmup_epochs(schedule: LearningRateSchedule, epochs: int) -> float:
    return ONE_CYCLE_WARMUP * epochs if schedule.warmup_epochs is None else schedule.warmup_epochs


def _rise(schedule: LearningRateSchedule, rate: float, steps: int) -> Segment:
    if isinstance(schedule, OneCycleRate):
        return Segment(0, steps, rate * schedule.start_factor, rate, "cosine")
    return Segment(0, steps, rate / (steps + 1), rate, "linear")  # not from 0: the first step is to count


def _fall(schedule: LearningRateSchedule, rate: float, first: int, steps: int) -> Segment:
    match schedule:
        case ConstantRate():
            return Segment(first, steps, rate, rate, "linear")
        case ExponentialRate():
            return Segment(first, steps, rate, rate * schedule.end_factor, "exponential")
        case CosineRate() | OneCycleRate():
            return Segment(first, steps, rate, rate * schedule.end_factor, "cosine")


# === Over the layers of a backbone ===


def layer_factors(rows: Sequence["LayerRow"], layer_decay: float | None) -> dict[str, float]:
    """By path, the part of the phase's rate that each unfrozen layer of the backbone gets; the head gets all of it.

    `rows`: the layers that the phase unfreezes, in the order of the table (`cuts.select_unfrozen`). The topmost one
    with weights gets `layer_decay`, the one below its square, and so on; `None`: all get the whole rate.
    """
    weighted = [row.path for row in rows if row.has_weights]
    decay = 1.0 if layer_decay is None else layer_decay
    return {path: decay**depth for depth, path in enumerate(reversed(weighted), start=1)}
