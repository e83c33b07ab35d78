"""The load on the service: what is made of its figures."""

import contextlib
import importlib
import json
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, without servers."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks" / "service"))
    command = importlib.import_module("run")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(command, "Bench", lambda *_, **__: contextlib.nullcontext())
    return command


@pytest.mark.parametrize(("p99", "status"), [(1.5, 0), (1.6, 1)])
def test_a_figure_that_misses_its_bar_is_an_exit_status(
    p99: float, status: int, load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        load.Line("without a bar", "ms", {"p99": 9.0}, "another", {"p99": 1.0}),
        load.Line("with one", "ms", {"p99": p99}, "another", {"p99": 1.0}, bar=1.5),
    ]
    monkeypatch.setattr(load, "SCENARIOS", {"polling": lambda _: lines})
    assert load.main() == status
    shown = capsys.readouterr().out
    assert json.loads(shown[: shown.index("\n}") + 2])["polling"][1]["met"] is (status == 0)
    assert ("MISSED" in shown) is (status == 1)


def test_what_one_side_alone_was_measured_by_has_no_ratio(load: Any) -> None:
    other = {"p50": 2.0, "p99": 3.0, "cpu": 1.0}
    line = load.Line("creating by eight", "ms", {"p50": 6.0, "p99": 9.0}, "another", other)
    assert line.ratio == {"p50": 3.0, "p99": 3.0}
    assert "creating by eight" in load.table({"creating": [line]})


def test_where_each_job_has_one_listener_no_line_speaks_of_all(load: Any) -> None:
    many = load.listening._arrivals("x", [1.0, 2.0], {"p50": 2.0}, listeners_of_one=2)
    assert [line.what for line in many] == ["x: an event to each", "x: an event to all"]
    (one,) = load.listening._arrivals("x", [1.0], {"p50": 1.0, "cpu": 3.0}, listeners_of_one=1)
    assert (one.what, one.value) == ("x: an event to its listener", {"p50": 1.0, "cpu": 3.0})
