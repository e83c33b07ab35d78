"""What drills are judged by: their numbers, and the exit status of the command."""

import json
import math
from pathlib import Path

import pytest

from tests.chaos.drills import __main__ as program
from tests.chaos.drills.broker import longest_wait
from tests.chaos.drills.drill import (
    Drill,
    Exercise,
    Figure,
    Findings,
    at_least,
    at_most,
    exactly,
    percentile,
    slope,
)


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0), (0, 1.0)], ids=["median", "p99", "most", "least"]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_of_thirty_values_the_largest_is_the_p99() -> None:
    assert percentile([1.0] * 29 + [7.0], 99) == 7.0


def test_where_nothing_was_measured_no_target_is_met() -> None:
    assert percentile([], 99) == math.inf
    assert not at_most(percentile([], 99), 10).met


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 1), (1, 0), (2, 2)]) == pytest.approx(0.5)  # by hand: (-1 * 0 + 0 * -1 + 1 * 1) / 2
    assert slope([(1, 5), (1, 9)]) == 0


def test_figures_are_met_up_to_their_limit() -> None:
    assert [at_most(9.99, 10).met, at_most(10, 10).met, at_most(10.01, 10).met] == [True, True, False]
    assert [at_least(0, 1).met, at_least(1, 1).met] == [False, True]
    assert [exactly(1, 2).met, exactly(2, 2).met] == [False, True]


def test_a_free_worker_waits_from_the_end_of_the_job_before_or_from_when_the_broker_is_back() -> None:
    one_runs = [(1.0, 1), (12.0, -1), (15.0, 1), (16.0, -1), (16.5, 1), (18.0, -1)]
    assert longest_wait(one_runs, since=10.0, slots=1) == pytest.approx(3.0)
    assert longest_wait(one_runs, since=14.0, slots=1) == pytest.approx(1.0)
    # The second worker is free all the time, so that it waits from the moment at which the broker is back.
    assert longest_wait(one_runs, since=10.0, slots=2) == pytest.approx(5.0)
    assert longest_wait(one_runs, since=20.0, slots=1) == 0


def _found(*figures: Figure, violations: tuple[str, ...] = ()) -> Findings:
    return Findings({str(number): figure for number, figure in enumerate(figures)}, violations=violations)


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        (_found(exactly(1, 1)), 0),
        (_found(exactly(1, 1), at_most(2, 1)), 1),
        (_found(exactly(1, 1), violations=("a job is gone",)), 1),
    ],
    ids=["all met", "one missed", "a violation"],
)
def test_the_exit_status_says_whether_all_targets_are_met(
    findings: Findings, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Exercise] = []

    def play(exercise: Exercise) -> Findings:
        seen.append(exercise)
        return findings

    drill = Drill("it holds", play, times=3, stacks=("production", "embedded"))
    monkeypatch.setattr(program, "DRILLS", {"it": drill})
    output = tmp_path / "it.json"
    assert program.main(["it", "--seed", "5", "--folder", str(tmp_path), "--output", str(output)]) == status
    assert [(each.stack, each.seed, each.times) for each in seen] == [("production", 5, 3)]
    assert json.loads(output.read_text())["met"] is (status == 0)


def test_every_drill_is_listed_where_people_look() -> None:
    import tests.chaos.drills as package

    assert package.__doc__ is not None
    listed = [line.split()[0] for line in package.__doc__.splitlines() if line[:1].isalpha() and "  " in line]
    assert listed == list(program.DRILLS)
