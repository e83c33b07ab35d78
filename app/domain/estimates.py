"""What a phase takes, told from layer tables: work, memory. Estimates, good to a factor of about two.

work      of a layer: its weights times the places where they are used, plus a little for each number it gives
sizes     numbers that each layer gives for one example
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from app.domain.cuts import inputs_of
from app.domain.model import LayerRow, SourceInfo
from app.domain.optimizers import Optimizer
from app.domain.plan import MemoryPlan

FLOAT_BYTES = 4
HALF_BYTES = 2
WORK_OF_AN_OUTPUT = 10.0
"""Multiplications that writing one number costs as much as; measured: with it, the shares of
a MobileNet's first fifth, half and four fifths come out right to 1 % on a CPU."""
_LOOKUPS = frozenset({"Embedding"})
_OVER_TIME = frozenset({"LSTM", "GRU", "SimpleRNN", "Bidirectional", "RNN"})

Sizes = Mapping[int, int]
"""Numbers that each row gives for one example, by its index."""

# === Sizes ===


def sizes(rows: Iterable[LayerRow], source: SourceInfo, input_shape: Sequence[int]) -> Sizes | None:
    """Numbers that each row gives for one example of `input_shape` (without the batch axis).

    Where the source takes inputs of any size, they are scaled from those that registration looked at; `None` if it
    did not.
    """
    known = {row.index: _numbers(row) for row in rows}
    open_rows = [index for index, numbers in known.items() if numbers is None]
    probe = source.probe
    if open_rows and (probe is None or probe.output_numbers is None):
        return None
    scaled = {}
    for index in open_rows:
        assert probe is not None
        assert probe.output_numbers is not None
        ratio = math.prod(input_shape) / math.prod(probe.input_shape)
        scaled[index] = round(probe.output_numbers[index] * ratio) if index < len(probe.output_numbers) else 0
    return {index: scaled[index] if numbers is None else numbers for index, numbers in known.items()}


def _numbers(row: LayerRow) -> int | None:
    """`None` where some side is not fixed."""
    total = 0
    for shape in _shapes(row):
        sides = shape[1:]
        if any(side is None for side in sides):
            return None
        total += math.prod(side for side in sides if side is not None)
    return total


def _shapes(row: LayerRow) -> list[list[int | None]]:
    shape = row.output_shape or []
    if any(isinstance(side, list) for side in shape):
        return [side for side in shape if isinstance(side, list)]
    return [[side for side in shape if not isinstance(side, list)]]


# === Work ===


def work(row: LayerRow, given: Sizes, rows: Mapping[int, LayerRow]) -> float:
    """Multiplications, or what takes as long, of one row for one example; `rows` are its neighbours by index."""
    numbers = given.get(row.index, 0)
    if not inputs_of(row):
        return 0.0
    return WORK_OF_AN_OUTPUT * numbers + row.parameters * _places(row, numbers, given, rows)


def _places(row: LayerRow, numbers: int, given: Sizes, rows: Mapping[int, LayerRow]) -> float:
    """How often each weight is used for one example."""
    if row.class_name in _LOOKUPS:
        return 0.0
    if row.class_name in _OVER_TIME:
        fed = [rows[source] for source in inputs_of(row) if source in rows]
        return max((_positions(each, given.get(each.index, 0)) for each in fed), default=1.0)
    return _positions(row, numbers)


def _positions(row: LayerRow, numbers: int) -> float:
    channels = _shapes(row)[0][-1] if _shapes(row)[0] else None
    return max(numbers / channels, 1.0) if channels else 1.0


# === Memory ===


def memory(
    rows: Sequence[LayerRow],
    given: Sizes | None,
    *,
    trained: int,
    reached: Collection[int],
    optimizer: Optimizer,
    batch_size: int,
    number_bytes: int,
) -> MemoryPlan:
    """What the training process holds while it trains.

    `trained`: numbers in weights that train; `reached`: rows that gradients pass. The others run without, one after
    the other, in each step or once for the cache. `number_bytes`: of what layers compute in.
    """
    weights = FLOAT_BYTES * sum(row.parameters for row in rows)
    gradients = FLOAT_BYTES * trained
    slots = gradients * slots_of(optimizer)
    activations = None
    if given is not None:
        kept = sum(given[row.index] for row in rows if row.index in reached)
        passing = [given[row.index] for row in rows if row.index not in reached]
        widest = max((first + second for first, second in zip(passing, passing[1:] or [0], strict=False)), default=0)
        activations = number_bytes * batch_size * (kept + widest)
    return MemoryPlan(
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=slots,
        activations_bytes=activations,
        total_bytes=weights + gradients + slots + (activations or 0),
    )


def slots_of(optimizer: Optimizer) -> int:
    """Numbers that the optimizer keeps for each weight that trains."""
    match optimizer.type:
        case "sgd":
            return int(optimizer.momentum > 0)
        case "adam" | "adamw":
            return 3 if optimizer.amsgrad else 2
        case "rmsprop":
            return 1 + int(optimizer.momentum > 0) + int(optimizer.centered)
        case "nadam":
            return 2
        case "adagrad":
            return 1
