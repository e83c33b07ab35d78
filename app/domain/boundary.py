"""Where frozen meets trained, told from the layer table alone: what gives the same output in every epoch of a phase.

    input ── still ── still ──┬── trains ── … ── output
                              └── still ───────┘
                  boundary = what the still rows hand to the others, here two tensors

A row is still if everything that feeds it is, its weights do not move, and it draws nothing at random. A backbone of
which no weight moves runs as it will after the training: then dropout and noise inside it draw nothing. Pooling and
the like at the bottom of the head are still, too. The same rules, on Keras' graphs, stand in `worker.engine.boundary`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from app.domain.cuts import inputs_of
from app.domain.model import LayerRow

BATCH_NORM = "BatchNormalization"
_STOCHASTIC = frozenset({
    "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D", "StochasticDepth",
})  # fmt: skip


@dataclass(frozen=True)
class Boundary:
    """The still part of a model in one phase."""

    still: frozenset[int]
    """Indices of the rows that give the same in every epoch, the inputs included."""
    rows: tuple[LayerRow, ...]
    """The still rows that feed what is not still, from below."""
    has_weights: bool
    """Whether anything that computes with weights stands below; the examples themselves need no cache."""


def find(backbone: Sequence[LayerRow], head: Sequence[LayerRow], *, moving: Collection[int]) -> Boundary:
    """The boundary of a model: the backbone's rows (`kept_rows`) and the head's, of which the last one trains.

    `moving`: indices of the backbone's rows of which some weight may move; BatchNormalization that is held is not
    among them.
    """
    restless = [row.index for row in backbone if row.index in moving or (moving and is_stochastic(row))]
    restless += [row.index for row in head if row.has_weights or is_stochastic(row)]
    rows = [*backbone, *head]
    unstill = _all_above(rows, restless)
    still = frozenset(row.index for row in rows if row.index not in unstill)
    handed = {source for row in rows if row.index in unstill for source in inputs_of(row)}
    return Boundary(
        still=still,
        rows=tuple(row for row in rows if row.index in still and row.index in handed),
        has_weights=any(row.has_weights for row in rows if row.index in still),
    )


def reached(backbone: Sequence[LayerRow], *, moving: Collection[int]) -> frozenset[int]:
    """Indices of the rows that gradients pass: those whose weights train, and everything above them."""
    return frozenset(_all_above(backbone, moving))


def _all_above(rows: Sequence[LayerRow], starts: Collection[int]) -> set[int]:
    """The starts and every row that they feed, directly or not; a layer that is used twice is fed from above, too."""
    users: dict[int, list[int]] = {}
    for row in rows:
        for source in inputs_of(row):
            users.setdefault(source, []).append(row.index)
    found, waiting = set(starts), list(starts)
    while waiting:
        fresh = [user for user in users.get(waiting.pop(), []) if user not in found]
        found.update(fresh)
        waiting += fresh
    return found


# === What rows are ===


def is_stochastic(row: LayerRow) -> bool:
    """Whether the row gives something else each time while training."""
    if row.stochastic is not None:
        return row.stochastic
    return row.class_name in _STOCHASTIC or row.class_name.startswith("Random")


def is_batch_norm(row: LayerRow) -> bool:
    """Whether the row is BatchNormalization, or wraps it."""
    return row.class_name == BATCH_NORM if row.batch_norm is None else row.batch_norm


def trainable_parameters(row: LayerRow) -> int:
    """Numbers of the row that training may change; statistics of normalizations are none."""
    if row.trainable_parameters is not None:
        return row.trainable_parameters
    if row.class_name == "Normalization":
        return 0
    if row.class_name == BATCH_NORM and row.output_shape and isinstance(row.output_shape[-1], int):
        return max(row.parameters - 2 * row.output_shape[-1], 0)  # a moving mean and variance for each channel
    return row.parameters
