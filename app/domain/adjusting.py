"""What Thaw changes in a job by itself, so that it can go on.

    memory ran out    batch_size 32, gradient_accumulation 1  ->  batch_size 16, gradient_accumulation 2

The optimizer sees the same batches in the same order; fewer examples go through the network at once. Sums are added in
another order, so the weights are nearly those of the job as it was sent, and where BatchNormalization trains they are
not: its mean and variance are those of the smaller batches.
"""

from app.domain.head import Head
from app.domain.phases import MAX_ACCUMULATION
from app.domain.spec import Adjustment, ResolvedSpec


def smaller_batches(spec: ResolvedSpec) -> ResolvedSpec | None:
    """The same job with half the examples at once, or a third where they cannot be halved, and so on.

    `None`: it was made smaller before, or cannot be: it takes one example at a time already.
    """
    factor = _smallest_factor(spec.batch_size)
    if spec.adjustments or factor is None:
        return None
    if any(phase.gradient_accumulation * factor > MAX_ACCUMULATION for phase in spec.schedule):
        return None
    adjustment = Adjustment(
        reason="out_of_memory",
        batch_size_before=spec.batch_size,
        batch_size=spec.batch_size // factor,
        comparable=not trains_batch_norm(spec),
    )
    return _scaled(spec, adjustment.batch_size_before, adjustment.batch_size, [adjustment])


def as_sent(spec: ResolvedSpec) -> ResolvedSpec:
    """The job before it was changed."""
    for adjustment in reversed(spec.adjustments):
        spec = _scaled(spec, adjustment.batch_size, adjustment.batch_size_before, spec.adjustments[:-1])
    return spec


def trains_batch_norm(spec: ResolvedSpec) -> bool:
    """Whether the examples that are in a batch together may matter to each other."""
    in_head = isinstance(spec.head, Head) and any(layer.type == "batch_normalization" for layer in spec.head.layers)
    return in_head or any(phase.batch_norm == "train" for phase in spec.schedule)


def _scaled(spec: ResolvedSpec, before: int, after: int, adjustments: list[Adjustment]) -> ResolvedSpec:
    """Batches of `after` and not `before` examples, and as many of them in a step as make up for it."""
    schedule = [
        phase.model_copy(update={"gradient_accumulation": phase.gradient_accumulation * before // after})
        for phase in spec.schedule
    ]
    return spec.model_copy(update={"batch_size": after, "schedule": schedule, "adjustments": adjustments})


def _smallest_factor(number: int) -> int | None:
    """Above 1; `None` for 1, which has none."""
    if number == 1:
        return None
    small = (factor for factor in range(2, int(number**0.5) + 1) if number % factor == 0)
    return next(small, number)
