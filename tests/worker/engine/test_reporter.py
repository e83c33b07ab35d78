"""How often steps are told."""

from typing import Any

import pytest

from app.domain.progress import PhaseProgress
from worker.engine import reporter
from worker.engine.reporter import StepReports

PLACE = PhaseProgress(index=1, name="head", epoch=1, epochs=2)


def test_the_first_step_is_told_at_once_and_others_at_most_twice_a_second(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = [100.0], recorder()
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock[0])
    reports = StepReports(told)
    for step in range(1, 301):
        reports.finished(PLACE, step=step, steps=300)
        clock[0] += 0.01
    steps = [progress.step for progress in told.progress]
    assert steps == [1, 51, 101, 151, 201, 251]
    assert told.progress[1].steps == 300
    assert told.progress[1].phase == PLACE


def test_slow_steps_are_all_told(recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [100.0], recorder()
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock[0])
    reports = StepReports(told)
    for step in range(1, 4):
        reports.finished(PLACE, step=step, steps=3)
        clock[0] += 2
    assert [progress.step for progress in told.progress] == [1, 2, 3]
