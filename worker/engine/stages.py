"""Stages of a run: told to the reporter, with their wall times, summed over its interruptions."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app.domain.progress import Stage, StageStarted
from worker.engine.reporter import Reporter

FIRST_STEP = "until_first_step"


class Stages:
    """Announces stages and keeps how long each took, from its making on."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._announced = 0
        self._within: list[tuple[Stage, float]] = []
        self._first_step_at: float | None = None
        self._before: Mapping[str, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """A stage; it may lie within another one, which then goes on, and whose time it does not count for."""
        self.reporter.check()
        self._announce(stage)
        started = time.perf_counter()
        self._within.append((stage, started))
        yield
        self._within.pop()
        seconds = time.perf_counter() - started
        self._add(stage, seconds)
        if self._within:
            self._add(self._within[-1][0], -seconds)
            self._announce(self._within[-1][0])

    def first_step(self) -> None:
        """An optimizer step ended; only the first one counts."""
        self._first_step_at = self._first_step_at or time.perf_counter()

    def go_on_from(self, before: Mapping[str, float]) -> None:
        """Add what `seconds` said when the run was interrupted."""
        self._before = before

    def seconds(self) -> dict[str, float]:
        """By stage, `until_first_step` (from the start of the run, once there was a step) and `total`."""
        now = time.perf_counter()
        measured = {**self._seconds, "total": now - self._started}
        for stage, started in self._within:
            measured[stage] = measured.get(stage, 0.0) + now - started
        summed = {name: self._before.get(name, 0.0) + measured.get(name, 0.0) for name in {**measured, **self._before}}
        return {**summed, **self._until_first_step()}

    def _until_first_step(self) -> dict[str, float]:
        if FIRST_STEP in self._before:
            return {FIRST_STEP: self._before[FIRST_STEP]}
        return {} if self._first_step_at is None else {FIRST_STEP: self._first_step_at - self._started}

    def _announce(self, stage: Stage) -> None:
        self._announced += 1
        self.reporter.report(StageStarted(stage=stage, number=self._announced))

    def _add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
