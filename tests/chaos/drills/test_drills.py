"""What drills are judged by: their numbers, and the exit status of the command."""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.chaos.drills import __main__ as program
from tests.chaos.drills import cancels
from tests.chaos.drills.answers import Counted, cut_off
from tests.chaos.drills.broker import Ordeal, figures_of, longest_wait
from tests.chaos.drills.damage import went_on_from
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
from tests.chaos.drills.keys import Race
from tests.chaos.drills.soak import Faults, Look, growth


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


# === Requests that broke ===


class _Breaking(httpx2.BaseTransport):
    """Gives what it was told to, one after the other, and remembers the ids of its requests."""

    def __init__(self, *outcomes: httpx2.Response | Exception) -> None:
        self._outcomes = iter(outcomes)
        self.identifiers: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.identifiers.append(request.headers["X-Request-Id"])
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _Torn(httpx2.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"half of"
        message = "peer closed connection without sending complete message body"
        raise httpx2.RemoteProtocolError(message)


def test_a_request_that_an_api_had_read_is_told_from_one_that_nobody_read() -> None:
    refused, unread, silent = httpx2.ConnectError(""), httpx2.ReadError(""), httpx2.RemoteProtocolError("")
    inner = _Breaking(refused, unread, silent, httpx2.Response(200, stream=_Torn()), httpx2.Response(200, text="all"))
    counts: Counter[str] = Counter()
    broken: list[str] = []
    with httpx2.Client(transport=Counted(counts, broken, inner=inner)) as client:
        for _ in range(4):
            with pytest.raises(httpx2.TransportError):
                client.get("http://thaw.test/")
        assert client.get("http://thaw.test/").text == "all"
    assert counts == {"ConnectError": 1, "ReadError": 1, "RemoteProtocolError": 2, "200": 1}
    assert broken == inner.identifiers[1:4]
    logs = "\n".join(f'{{"request_id": "{each}", "event": "Answered a request."}}' for each in inner.identifiers[2:])
    assert cut_off(broken, logs) == inner.identifiers[2:4]
    assert len(set(inner.identifiers)) == 5


# === What else must not go by ===


def _answer(status: int, job: str = "ftjob-1", *, replayed: bool = False) -> httpx2.Response:
    return httpx2.Response(status, json={"id": job}, headers={"Idempotency-Replayed": "true"} if replayed else {})


@pytest.mark.parametrize("last", [201, 409])
def test_a_key_that_is_in_flight_for_ever_has_not_been_answered(last: int) -> None:
    race = Race("key")
    race.note([_answer(201), _answer(409), _answer(201, replayed=True), _answer(last)])
    assert (race.jobs, race.replayed, race.others) == ({"ftjob-1"}, 1, 0)
    assert race.answered == (last == 201)


@pytest.mark.parametrize(("lost", "met"), [(None, True), (0, False), (50, True)], ids=["none to lose", "none", "all"])
def test_a_blow_that_was_to_lose_hints_must_have_lost_some(lost: int | None, met: bool) -> None:
    ordeal = Ordeal(
        [], server_errors=0, slowest_post_seconds=0, hints_lost=lost, longest_wait_seconds=0, undisturbed=True
    )
    assert Findings(figures_of(ordeal)).met == met


@pytest.mark.parametrize(
    ("hits", "met"), [("", False), ("hit miss", False), ("hit hit miss", True), ("miss miss hit", False)]
)
def test_most_faults_must_have_hit_something(hits: str, met: bool) -> None:
    faults = Faults()
    for each in hits.split():
        faults.note("child", hit=each == "hit")
    assert faults.figure().met == met


@pytest.mark.parametrize(
    ("files", "more"),
    [
        ([30, 22, 24, 22, 24, 22, 24, 22, 26, 22, 24, 24], 0),  # they come and go
        ([22, 22, 22, 22, 22, 22, 24, 22, 24, 23, 25, 23], 1),  # one was never closed
        ([22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33], 3),  # with every look
    ],
    ids=["none", "one", "each"],
)
def test_open_files_that_never_go_are_seen_among_those_that_come_and_go(files: list[int], more: int) -> None:
    figures, facts = growth(
        [
            Look(
                at=at * 60.0,
                jobs=at * 10,
                program="worker",
                pid=7,
                rss_mib=100.0,
                files=count,
                connections=2,
                threads=4,
            )
            for at, count in enumerate(files)
        ]
    )
    assert figures["open files more at the end"].measured == more
    assert figures["open files more at the end"].met == (more == 0)
    assert figures["threads more at the end"].met
    assert facts["open files"] == {str(count): files.count(count) for count in sorted(set(files))}


def test_a_process_that_outlives_the_stop_of_its_job_is_seen_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    assert cancels.outlived_seconds(list, 99.0) == 0
    clock[0] = 100.0
    assert cancels.outlived_seconds(lambda: 101 <= clock[0] <= 104, 99.0) == pytest.approx(5.0)
    clock[0] = 100.0
    assert cancels.outlived_seconds(lambda: True, 99.0) > cancels.STOP_SECONDS  # it does not wait for ever


REFUSED: tuple[str, dict[str, int]] = ("checkpoint_refused", {})


@pytest.mark.parametrize(
    ("told", "step"),
    [
        ([REFUSED, ("resumed", {"step": 10})], 10),
        ([REFUSED, REFUSED, ("resumed", {"step": 10}), ("resumed", {"step": 30})], 10),
        ([("resumed", {"step": 20}), REFUSED, ("resumed", {"step": 10})], None),
        ([REFUSED], None),
        ([], None),
    ],
    ids=["at once", "with attempts that were lost", "from the damaged one first", "not at all", "nothing told"],
)
def test_a_damaged_checkpoint_must_be_refused_before_its_job_goes_on(
    told: list[tuple[str, dict[str, int]]], step: int | None
) -> None:
    assert went_on_from(told) == step
