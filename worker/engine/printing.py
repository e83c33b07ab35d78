"""Progress and results as lines for a terminal."""

from collections.abc import Callable

from app.domain.progress import EpochFinished, FreezeProof, PhaseFinished, PhaseStarted, Progress, StageStarted
from app.domain.report import Evaluation
from worker.engine.train import TrainedModel


class PrintingReporter:
    """Says what happens; steps are left out."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def report(self, progress: Progress) -> None:
        """One line for each stage, phase and epoch."""
        line = _line(progress)
        if line:
            self._say(line)

    def check(self) -> None:
        """Go on: Ctrl-C ends the process by itself."""


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
        case _:
            return None


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
