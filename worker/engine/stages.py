"""Stages of a run: told to the reporter, with their wall times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.progress import Stage, StageStarted
from worker.engine.reporter import Reporter


class Stages:
    """Announces stages and keeps how long each took, from its making on."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._announced = 0
        self._within: list[Stage] = []

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """A stage; it may lie within another one, which then goes on, and whose time it does not count for."""
        self.reporter.check()
        self._announce(stage)
        started = time.perf_counter()
        self._within.append(stage)
        yield
        self._within.pop()
        seconds = time.perf_counter() - started
        self._add(stage, seconds)
        if self._within:
            self._add(self._within[-1], -seconds)
            self._announce(self._within[-1])

    def seconds(self, *, first_step_at: float | None) -> dict[str, float]:
        """By stage, and from the start to the end of the first optimizer step."""
        to_first = {"until_first_step": first_step_at - self._started} if first_step_at is not None else {}
        return {**self._seconds, **to_first, "total": time.perf_counter() - self._started}

    def _announce(self, stage: Stage) -> None:
        self._announced += 1
        self.reporter.report(StageStarted(stage=stage, number=self._announced))

    def _add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
