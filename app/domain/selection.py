"""What a phase does to the rows of a model: what it unfreezes, what of that moves, and what stays the same."""

from dataclasses import dataclass

from app.domain import boundary, learning_rates
from app.domain.boundary import Boundary
from app.domain.cuts import select_unfrozen
from app.domain.layout import Layout
from app.domain.model import LayerRow
from app.domain.phases import Phase


@dataclass(frozen=True)
class Selected:
    """Rows of the backbone."""

    unfrozen: tuple[LayerRow, ...]
    held: frozenset[int]
    """Indices of the unfrozen ones that stay as they are, because they are BatchNormalization."""
    moving: frozenset[int]
    """Indices of the other unfrozen ones."""
    edge: Boundary
    """What is the same in every epoch."""


def select(layout: Layout, phase: Phase) -> Selected:
    """What the phase does to the backbone. Raises `UserError` as `cuts.select_unfrozen`."""
    rows = select_unfrozen(layout.backbone, phase.unfreeze)
    held = {row.index for row in rows if phase.batch_norm == "frozen" and boundary.is_batch_norm(row)}
    moving = {row.index for row in rows} - held
    return Selected(
        unfrozen=tuple(rows),
        held=frozenset(held),
        moving=frozenset(moving),
        edge=boundary.find(layout.backbone, layout.head, moving=moving),
    )


def highest_rates(layout: Layout, phase: Phase) -> dict[int, float]:
    """The highest learning rate that each unfrozen row, and each of the head, gets in the phase, by its index."""
    rates = learning_rates.segments(
        phase.learning_rate_schedule,
        learning_rate=phase.optimizer.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=layout.steps(phase),
    )
    highest = max(max(rate.begin, rate.end) for rate in rates)
    unfrozen = select_unfrozen(layout.backbone, phase.unfreeze)
    factors = learning_rates.layer_factors(unfrozen, phase.layer_decay)
    in_backbone = {row.index: highest * factors[row.path] for row in unfrozen}
    return {**in_backbone, **{row.index: highest for row in layout.head}}
