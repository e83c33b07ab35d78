"""What a drill is, how it is carried out, and what it finds."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.settings import Settings
from tests.chaos.quick import QUICK
from tests.chaos.run import Site, open_site, stack_of
from tests.chaos.stacks import Stack

REAL: Mapping[str, str] = {
    name: str(Settings.model_fields[name.removeprefix("THAW_").lower()].default)
    for name in QUICK
    if name != "THAW_MIN_FREE_DISK_BYTES"
}
"""The settings that people have, in place of the quick ones."""


@dataclass(frozen=True)
class Figure:
    """A number, and what it must be."""

    measured: float
    target: str
    met: bool


def at_most(measured: float, limit: float) -> Figure:
    """Met by `limit` and everything below."""
    return Figure(round(measured, 3), f"<= {limit:g}", measured <= limit)


def exactly(measured: int, wanted: int) -> Figure:
    """Met by one number."""
    return Figure(measured, f"= {wanted}", measured == wanted)


def at_least(measured: float, limit: float) -> Figure:
    """Met by `limit` and everything above: that there was something to look at."""
    return Figure(measured, f">= {limit:g}", measured >= limit)


@dataclass(frozen=True)
class Findings:
    """What a drill came to."""

    figures: Mapping[str, Figure]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth knowing; nothing depends on it."""
    violations: Sequence[str] = ()
    """Broken promises, in words."""

    @property
    def met(self) -> bool:
        """Whether everything is as promised."""
        return not self.violations and all(figure.met for figure in self.figures.values())

    def as_json(self) -> dict[str, Any]:
        """For files and people."""
        return {**asdict(self), "violations": list(self.violations), "met": self.met}


@dataclass(frozen=True)
class Exercise:
    """How a drill is carried out this time."""

    folder: Path
    stack: str
    seed: int
    times: int
    """How often the thing is done that the drill is about."""
    slow: bool = False
    """With the leases and intervals of real life."""

    @property
    def lease_seconds(self) -> float:
        """How long an attempt is trusted without a heartbeat."""
        return float((REAL if self.slow else QUICK)["THAW_LEASE_SECONDS"])

    def rng(self, of: str = "") -> random.Random:
        """Chance that can be repeated."""
        return random.Random(f"{self.seed} {of}")  # noqa: S311 (no secret)

    def new_stack(self, environment: Mapping[str, str] | None = None) -> Stack:
        """The service, not started yet."""
        real = REAL if self.slow else {}
        return stack_of(self.stack, self.folder / "service", environment={**real, **(environment or {})})

    @contextmanager
    def site(self, *kinds: str, environment: Mapping[str, str] | None = None) -> Iterator[Site]:
        """The service with a source and data, after one undisturbed job of each kind; afterwards it is killed."""
        with open_site(self.new_stack(environment), self.folder, list(kinds)) as site:
            yield site


@dataclass(frozen=True)
class Drill:
    """One promise, and how it is tried."""

    promise: str
    play: Callable[[Exercise], Findings]
    times: int
    """How often the thing is done, if nobody says otherwise."""
    stacks: Sequence[str]
    """On which service it makes sense, the usual one first."""


# === Numbers ===


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed; infinite without values."""
    if not values:
        return math.inf
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through `(x, y)` with the least squares; 0 where there is none."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    x0 = sum(x for x, _ in points) / len(points)
    y0 = sum(y for _, y in points) / len(points)
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
