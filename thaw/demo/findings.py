"""What the runs say: from scratch against transferred, each with its 95 % interval, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from rich.table import Table

from thaw.records.jobs import Interval

MORE_SEEDS = "--seeds 42,1,2,3,4"


@dataclass(frozen=True)
class Outcome:
    """One seed: the accuracy of both jobs on the same test examples."""

    seed: int
    scratch: Interval
    transferred: Interval
    examples: int

    @property
    def gain(self) -> float:
        """How much higher the transferred model's accuracy is."""
        return self.transferred.value - self.scratch.value


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean of two values or more with its 95 % interval (Student's t)."""
    from scipy import stats

    mean, half = fmean(values), float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return Interval(value=mean, low=mean - half, high=mean + half, method="t")


def table(outcomes: Sequence[Outcome]) -> Table:
    """Small enough for any terminal."""
    return _of_one_seed(outcomes[0]) if len(outcomes) == 1 else _of_seeds(outcomes)


def _of_one_seed(outcome: Outcome) -> Table:
    drawn = Table("", "test accuracy", "95 % interval", "test examples")
    for name, accuracy in (("from scratch", outcome.scratch), ("transferred", outcome.transferred)):
        drawn.add_row(name, percent(accuracy.value), _range(accuracy), f"{outcome.examples:,}")
    return drawn


def _of_seeds(outcomes: Sequence[Outcome]) -> Table:
    drawn = Table("seed", "from scratch", "transferred", "gain in points")
    for outcome in outcomes:
        drawn.add_row(
            str(outcome.seed), _with_range(outcome.scratch), _with_range(outcome.transferred), points(outcome.gain)
        )
    drawn.add_section()
    scratch = over_seeds([outcome.scratch.value for outcome in outcomes])
    transferred = over_seeds([outcome.transferred.value for outcome in outcomes])
    gain = over_seeds([outcome.gain for outcome in outcomes])
    drawn.add_row("mean", _with_range(_bounded(scratch)), _with_range(_bounded(transferred)), points(gain.value))
    return drawn


def verdict(outcomes: Sequence[Outcome]) -> str:
    """What may honestly be said."""
    return _of_one(outcomes[0]) if len(outcomes) == 1 else _of_several(outcomes)


def _of_one(outcome: Outcome) -> str:
    if outcome.transferred.low > outcome.scratch.high:
        return "The intervals do not overlap: on this draw of training examples, transfer helped."
    if outcome.scratch.low > outcome.transferred.high:
        return "The intervals do not overlap: on this draw of training examples, transfer hurt."
    if outcome.gain > 0:
        seen = f"Transferred is {points(outcome.gain)} points higher, but the intervals overlap"
    else:
        seen = "Transferred is not higher here, and the intervals overlap"
    return f"{seen}: one run with {outcome.examples:,} test examples decides nothing. More of them do: {MORE_SEEDS}"


def _of_several(outcomes: Sequence[Outcome]) -> str:
    gain = over_seeds([outcome.gain for outcome in outcomes])
    measured = f"{points(gain.value)} points, 95 % interval {points(gain.low)} to {points(gain.high)}"
    over = f"over {len(outcomes)} seeds (other training examples and starting weights, the same source)"
    if gain.low > 0:
        return f"Transfer helped {over}: {measured}."
    if gain.high < 0:
        return f"Transfer hurt {over}: {measured}."
    higher = sum(outcome.gain > 0 for outcome in outcomes)
    return (
        f"Transferred is higher for {higher} of {len(outcomes)}, but that is no evidence yet that transfer helps or "
        f"hurts {over}: {measured}."
    )


def percent(value: float) -> str:
    """`97.2 %`."""
    return f"{100 * value:.1f} %"


def points(difference: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.2f}"


def _range(accuracy: Interval) -> str:
    return f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %"


def _with_range(accuracy: Interval) -> str:
    return f"{percent(accuracy.value)} ({_range(accuracy)})"


def _bounded(accuracy: Interval) -> Interval:
    """Student's t knows nothing of 0 and 1."""
    return Interval(
        value=accuracy.value, low=max(0.0, accuracy.low), high=min(1.0, accuracy.high), method=accuracy.method
    )
