"""How the engine talks to whoever runs it.

engine --report(progress)--> reporter      stages, phases, steps, epochs
engine <--check()----------- reporter      between every two steps: go on, or raise `TrainingStopped`
"""

import time
from typing import Protocol

from app.domain.progress import PhaseProgress, Progress, StepFinished

STEP_REPORT_SECONDS = 0.5
"""Steps are reported at most twice a second; epochs, phases and stages always."""


class TrainingStopped(Exception):  # noqa: N818 (named for what happened, not for an error)
    """The run must end now: it was cancelled, paused, or its owner changed. Nothing of it is published."""

    def __init__(self, *, keep: bool = True, over: bool = False) -> None:
        """`keep`: whether somebody will go on from here, so that a checkpoint is worth writing.

        `over`: the job ends here, and not a checkpoint but its weights are worth keeping: another may begin with them.
        """
        super().__init__()
        self.keep = keep
        self.over = over


class Reporter(Protocol):
    """Where progress goes, and where the wish to stop comes from."""

    def report(self, progress: Progress) -> None:
        """Take note of progress. Called from the training thread: it should return at once."""

    def check(self) -> None:
        """Return if the run shall go on. Raises `TrainingStopped` if it must end now."""


class SilentReporter:
    """Takes everything and never stops a run."""

    def report(self, progress: Progress) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Go on."""


class StepReports:
    """Passes steps on to a reporter, at most one in `STEP_REPORT_SECONDS`; the first one at once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._next = 0.0

    def finished(self, phase: PhaseProgress, *, step: int, steps: int) -> None:
        """A step ended; `step` counts from 1 in its epoch of `steps`."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + STEP_REPORT_SECONDS
            self._reporter.report(StepFinished(phase=phase, step=step, steps=steps))
