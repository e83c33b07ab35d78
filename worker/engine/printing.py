"""Progress and results as lines for a terminal."""

import signal
from collections.abc import Callable

from app.domain.progress import (
    CheckpointRefused,
    EpochFinished,
    FreezeProof,
    PhaseFinished,
    PhaseStarted,
    Progress,
    Resumed,
    StageStarted,
    WeightsKept,
)
from app.domain.report import Evaluation
from worker.engine.reporter import TrainingStopped
from worker.engine.train import TrainedModel


class PrintingReporter:
    """Says what happens; steps are left out. SIGTERM stops the run at its next step, with a checkpoint."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)

    def report(self, progress: Progress) -> None:
        """One line for each stage, phase and epoch."""
        line = _line(progress)
        if line:
            self._say(line)

    def check(self) -> None:
        """Raise `TrainingStopped` after SIGTERM. Ctrl-C ends the process by itself."""
        if self._asked_to_stop:
            raise TrainingStopped

    def _stop(self, *_: object) -> None:
        self._asked_to_stop = True


def summary(trained: TrainedModel) -> str:
    """What came out, in a few lines."""
    report = trained.report
    receipt = "unchanged" if report.source.unchanged else "CHANGED"
    return "\n".join(
        [
            f"test {_figures(report.test)}",
            f"source {report.source.model_digest_before[:12]} {receipt}, result {trained.info.digest[:12]}",
            f"{report.seconds['total']:.1f} s on {report.device}, in {trained.results}",
        ]
    )


def _line(progress: Progress) -> str | None:
    match progress:
        case StageStarted():
            return progress.stage
        case PhaseStarted():
            place = f"phase {progress.phase.index} '{progress.phase.name}'"
            return f"{place}: {progress.trainable_parameters} numbers train, {progress.frozen_parameters} are frozen"
        case EpochFinished():
            figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            return f"  epoch {progress.phase.epoch}/{progress.phase.epochs}  {figures}"
        case PhaseFinished():
            return f"  {'stopped early; ' if progress.stopped_early else ''}{_proof(progress.proof)}"
        case Resumed() | CheckpointRefused() | WeightsKept():
            return _fault(progress)
        case _:
            return None


def _fault(progress: Resumed | CheckpointRefused | WeightsKept) -> str:
    if isinstance(progress, WeightsKept):
        return f"  the weights after epoch {progress.phase.epoch} are kept in {progress.checkpoint}"
    if isinstance(progress, CheckpointRefused):
        return f"checkpoint {progress.name} is left out: {progress.reason}"
    changed = f"; {', '.join(progress.differences)}" if progress.differences else ""
    place = f"phase {progress.phase.index} '{progress.phase.name}', epoch {progress.phase.epoch}"
    return f"going on from step {progress.step}, in {place} ({progress.fidelity}{changed})"


def _proof(proof: FreezeProof) -> str:
    verdict = "held" if proof.held else "FAILED"
    return (
        f"freeze proof {verdict}: {proof.frozen_variables} frozen variables bit-identical "
        f"({proof.frozen_digest_after[:12]}), {proof.moved_variables} of {proof.trained_variables} others moved"
    )


def _figures(test: Evaluation) -> str:
    figures = {
        "accuracy": test.accuracy,
        "all labels right": test.exact_match,
        "mean absolute error": test.mean_absolute_error,
    }
    name, interval = next((name, found) for name, found in figures.items() if found is not None)
    return (
        f"{name} {interval.value:.4f} (95 % interval {interval.low:.4f} to {interval.high:.4f}), "
        f"{test.examples} examples"
    )
