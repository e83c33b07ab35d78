"""Figures: equal requests timed in turns, their percentiles, and the table of what they come to."""

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Call = Callable[[], object]


class Worker(Protocol):
    """A process that does the work of a side."""

    @property
    def processor_seconds(self) -> float:
        """What it has used so far, of all cores."""
        ...


@dataclass
class Taken:
    """What the requests of one side took."""

    seconds: list[float] = field(default_factory=list)
    """Each of them, as its client saw it."""
    processor_seconds: float | None = None
    """All of them together, in the process that answered; `None`: not looked at."""

    @property
    def milliseconds(self) -> dict[str, float]:
        """What half of the requests did not exceed, and what 99 in 100 did not; and of processor time, the mean."""
        spread = {f"p{percent}": percentile(self.seconds, percent) * 1000 for percent in (50, 99)}
        if self.processor_seconds is None:
            return spread
        return {**spread, "cpu": self.processor_seconds / len(self.seconds) * 1000}

    def __add__(self, other: "Taken") -> "Taken":
        return Taken([*self.seconds, *other.seconds])


def in_turns(
    sides: Mapping[str, Call],
    *,
    turns: int,
    workers: Mapping[str, Worker] | None = None,
    undo: Mapping[str, Callable[[Any], object]] | None = None,
) -> dict[str, Taken]:
    """Time equal calls: one of each side in every turn, so that what disturbs one side disturbs all.

    `workers`: the processes whose time of the processor is told, too. `undo` takes what a call has returned, and is
    not timed.
    """
    taken = {name: Taken() for name in sides}
    order = deque(sides.items())
    before = {name: worker.processor_seconds for name, worker in (workers or {}).items()}
    gc.collect()
    gc.disable()
    try:
        for _ in range(turns):
            for name, call in order:
                started = time.perf_counter()
                made = call()
                taken[name].seconds.append(time.perf_counter() - started)
                if undo is not None:
                    undo[name](made)
            order.rotate(1)  # nobody always comes behind the same neighbour
    finally:
        gc.enable()
    for name, worker in (workers or {}).items():
        taken[name].processor_seconds = worker.processor_seconds - before[name]
    return taken


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: the smallest value that so many percent of all do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True)
class Line:
    """A figure of Thaw's, and what it is held against."""

    what: str
    unit: str
    value: Mapping[str, float]
    """One number, or one for each percentile."""
    against: str = ""
    other: Mapping[str, float] = field(default_factory=dict)
    bar: float | None = None
    """What the ratio of `p99` may be at most."""

    @property
    def ratio(self) -> dict[str, float]:
        """Thaw's figure in terms of the other, where both were measured."""
        return {name: self.value[name] / other for name, other in self.other.items() if other and name in self.value}

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        compared = {"against": self.against, "other": rounded(self.other), "ratio": rounded(self.ratio)}
        return {
            "what": self.what,
            "unit": self.unit,
            "value": rounded(self.value),
            **(compared if self.other else {}),
            **({} if self.bar is None else {"bar": self.bar, "met": self.met}),
        }

    @property
    def met(self) -> bool:
        """Whether the bar was kept, if there is one."""
        return self.bar is None or self.ratio["p99"] <= self.bar


def times(what: str, ours: Taken, *, against: str, other: Taken, bar: float | None = None) -> Line:
    """What one side took, held against what another did."""
    return Line(what, "ms", ours.milliseconds, against, other.milliseconds, bar)


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Three digits: the rest is noise."""
    return {name: float(f"{value:.3g}") for name, value in values.items()}


COLUMNS = "{:48}{:>7}{:>24}  {:24}{:>24}{:>20}  {}"
KEYS = "p50 / p99 / cpu"


def table(found: Mapping[str, Sequence[Line]]) -> str:
    """For people."""
    lines = []
    for scenario, figures in found.items():
        lines += ["", COLUMNS.format(scenario, "unit", KEYS, "against", KEYS, "ratio", "bar").rstrip()]
        lines += [_row(each).rstrip() for each in figures]
    return "\n".join(lines)


def _row(line: Line) -> str:
    kept = "" if line.bar is None else f"p99 at most {line.bar:g}: {'kept' if line.met else 'MISSED'}"
    numbers = [_numbers(each) for each in (line.value, line.other, line.ratio)]
    return COLUMNS.format(line.what, line.unit, numbers[0], line.against, *numbers[1:], kept)


def _numbers(values: Mapping[str, float]) -> str:
    return " / ".join(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values())
