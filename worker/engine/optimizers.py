"""From a phase's options to its optimizer: one of `keras.optimizers`, whose rate follows the phase's schedule.

Everything that such an optimizer knows beyond its options is a pure function of the step, or stands in
`optimizer.variables`: who saves and restores these resumes exactly.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from app.domain.learning_rates import Segment
from app.domain.optimizers import Optimizer

Tensor = Any
"""A TensorFlow tensor; neither Keras nor TensorFlow has types."""
Initializer = Any
Variable = Any
"""A Keras variable, or the TensorFlow variable inside one."""


def build_optimizer(
    options: Optimizer,
    *,
    rates: Sequence[Segment] = (),
    factors: Iterable[tuple[Variable, float]] = (),
    scale_losses: bool = False,
) -> keras.optimizers.Optimizer:
    """A new optimizer with these options and no state yet.

    `rates`: what its learning rate is at each step; left out, it stays as the options say. `optimizer.learning_rate`
    holds the rate of the last step that was made.
    `factors`: variables that get only a part of that rate, with the part. It scales what the step adds to them, weight
    decay included, and not their gradient, which Adam would scale back.
    `scale_losses`: for float16; what `optimizer.scale_loss` makes of a loss has gradients that do not vanish, and a
    step whose gradients overflow is left out and counts as none.
    """
    arguments = options.model_dump(exclude={"type"})
    if options.type == "adamw" and options.weight_decay is None:
        arguments["weight_decay"] = 0.0  # AdamW refuses None, which all the others take
    optimizer = _scheduled(options.type)(**arguments)
    optimizer.follow(rates, factors)
    return keras.optimizers.LossScaleOptimizer(optimizer) if scale_losses else optimizer


def carry(before: keras.optimizers.Optimizer, after: keras.optimizers.Optimizer) -> None:
    """Let a built optimizer go on where one of the same type ended, which may have trained other variables.

    Steps are counted on; the slots (momenta and the like) of variables that both train go over, those of others stay
    fresh. The schedule of `after` starts at its beginning.
    """
    if isinstance(before, keras.optimizers.LossScaleOptimizer):
        after.dynamic_scale.assign(before.dynamic_scale)
        after.step_counter.assign(before.step_counter)
        before, after = before.inner_optimizer, after.inner_optimizer
    earlier, slots = before.phase.slots, after.phase.slots
    for key, slot in slots.items():
        if key in earlier:
            slot.assign(earlier[key])
    for mine, theirs in zip(after.counts(), before.counts(), strict=True):
        mine.assign(theirs)
    after.phase.start.assign(after.iterations)


@dataclass(frozen=True)
class _Phase:
    """What an optimizer knows about its phase; Keras must not look into it for variables to track."""

    rates: tuple[Segment, ...]
    factors: dict[Any, float]
    start: Variable
    """Steps that were made before the phase."""
    slots: dict[tuple[Any, str], Variable] = field(default_factory=dict)
    """What is kept for each trained variable, by its key and the name of the slot."""


class _Scheduled:
    """Goes before a class of `keras.optimizers`."""

    def follow(self: Any, rates: Sequence[Segment], factors: Iterable[tuple[Variable, float]]) -> None:
        """Set the rate before each step, where it moves at all, and give each variable its part of it."""
        moves = any(segment.begin != segment.end for segment in rates)
        self.phase = _Phase(
            rates=tuple(rates) if moves else (),
            factors={self._var_key(variable): factor for variable, factor in factors},
            start=self.add_variable((), dtype="int64", name="phase_start"),
        )

    def counts(self: Any) -> list[Variable]:
        """The variables that belong to no trained variable and to no phase: the step count, and products over steps."""
        others = [*self.phase.slots.values(), self.phase.start, self._learning_rate]
        return [variable for variable in self.variables if not any(variable is other for other in others)]

    def add_variable_from_reference(
        self: Any, reference_variable: Variable, name: str | None = None, initializer: Initializer = "zeros"
    ) -> Variable:
        """As in Keras; which slot belongs to which variable is kept, for `carry`."""
        slot = super().add_variable_from_reference(reference_variable, name, initializer)  # type: ignore[misc]
        self.phase.slots[self._var_key(reference_variable), str(name)] = slot
        return slot

    def apply(self: Any, grads: Sequence[Tensor], trainable_variables: Sequence[Variable] | None = None) -> None:
        """One optimizer step, at the rate of that step."""
        if self.phase.rates:
            self._learning_rate.assign(_rate(self.phase.rates, ops.subtract(self._iterations, self.phase.start)))
        super().apply(grads, trainable_variables)  # type: ignore[misc]  # Keras' class comes behind this one

    def update_step(self: Any, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """The update of one variable; in every optimizer of ours it is the rate times something without the rate."""
        factor = self._factor(variable)
        rate = learning_rate if factor == 1.0 else learning_rate * factor
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables: Sequence[Variable]) -> None:
        """As in Keras, at the rate of each variable: what learns slowly is forgotten slowly."""
        if not self.weight_decay:
            return
        for variable in variables:
            rate = ops.cast(self.learning_rate, variable.dtype) * self._factor(variable)
            variable.assign_sub(variable * self.weight_decay * rate)

    def _factor(self: Any, variable: Variable) -> float:
        return self.phase.factors.get(self._var_key(variable), 1.0)


def _rate(rates: Sequence[Segment], step: Tensor) -> Tensor:
    """`rate_at` inside a graph; in float64 until the end, so that it is right to the last digit of float32."""
    step = ops.cast(step, "float64")
    rate = _within(rates[0], step)
    for segment in rates[1:]:
        rate = ops.where(step >= segment.first, _within(segment, step), rate)
    return ops.cast(rate, "float32")


def _within(segment: Segment, step: Tensor) -> Tensor:
    begin, end = segment.begin, segment.end
    done = ops.clip((step - segment.first) / segment.steps, 0.0, 1.0)
    match segment.shape:
        case "linear":
            return begin + (end - begin) * done
        case "cosine":
            return end + (begin - end) * (1 + ops.cos(math.pi * done)) / 2
        case "exponential":
            return begin * ops.exp(math.log(end / begin) * done)


@functools.cache
def _scheduled(kind: str) -> type[Any]:
    classes = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "nadam": keras.optimizers.Nadam,
        "adagrad": keras.optimizers.Adagrad,
    }
    return type(classes[kind].__name__, (_Scheduled, classes[kind]), {})
