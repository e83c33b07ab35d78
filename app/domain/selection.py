"""What a phase does to the rows of a model: what it unfreezes, what of that moves, and what stays the same."""

from dataclasses import dataclass

from app.domain import boundary
from app.domain.boundary import Boundary
from app.domain.cuts import select_unfrozen
from app.domain.layout import Layout
from app.domain.model import LayerRow
from app.domain.phases import Phase
from app.domain.spec import ResolvedSpec


@dataclass(frozen=True)
class Selected:
    """Rows of the backbone by their indices."""

    unfrozen: frozenset[int]
    held: frozenset[int]
    """Of the unfrozen ones BatchNormalization that stays as it is."""
    moving: frozenset[int]
    """Those of which some weight moves."""
    edge: Boundary
    """What is the same in every epoch."""


def select(layout: Layout, phase: Phase) -> Selected:
    """What the phase does to the backbone. Raises `UserError` as `cuts.select_unfrozen`."""
    rows = select_unfrozen(layout.backbone, phase.unfreeze)
    held = {row.index for row in rows if boundary.is_batch_norm(row)} if holds_batch_norm(layout.spec) else set()
    moving = {row.index for row in rows if row.index not in held and _moves(row)}
    return Selected(
        unfrozen=frozenset(row.index for row in rows),
        held=frozenset(held),
        moving=frozenset(moving),
        edge=boundary.find(layout.backbone, layout.end, moving=moving),
    )


def holds_batch_norm(spec: ResolvedSpec) -> bool:
    """Whether BatchNormalization of the backbone stays as it is: a random one has no statistics worth keeping."""
    return spec.backbone_weights == "source"


def _moves(row: LayerRow) -> bool:
    """Whether training changes the row; the statistics of BatchNormalization move even if nothing else in it does."""
    return boundary.trainable_parameters(row) > 0 or boundary.is_batch_norm(row)
