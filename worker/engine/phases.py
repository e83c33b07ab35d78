"""One phase of the schedule: freeze, train its epochs, prove.

freeze; fingerprint; cached features, if that is right and pays; optimizer and step anew
for epoch:  for batch: check, step        # cancelled or diverged: out, between two steps
            validate, report, early stopping?
keep the best weights if asked to; prove; checkpoint
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
from safetensors.numpy import save_file

from app.domain import learning_rates
from app.domain.caching import CacheUse
from app.domain.errors import UserError
from app.domain.phases import Phase
from app.domain.progress import EpochFinished, PhaseFinished, PhaseProgress, PhaseStarted
from app.domain.report import PhaseReport
from worker.engine import caching, canonical, durable, execution, optimizers, proof, schedule
from worker.engine.execution import Execution
from worker.engine.run import Run
from worker.engine.schedule import Selection
from worker.engine.steps import EvaluationStep, Network, TrainStep
from worker.engine.stopping import BestEpoch, EarlyStop
from worker.engine.totals import NotFiniteError, Totals

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class _Current:
    """The phase that runs."""

    phase: Phase
    index: int
    step: TrainStep
    execution: Execution

    def progress(self, epoch: int) -> PhaseProgress:
        return PhaseProgress(index=self.index, name=str(self.phase.name), epoch=epoch, epochs=self.phase.epochs)


def run_phase(run: Run, phase: Phase, *, index: int, selection: Selection, keep_best: bool = False) -> PhaseReport:
    """Train one phase; `index` counts from 1. `keep_best`: the next phase starts from this one's best epoch.

    Raises `ProofError` if a frozen weight moved, `UserError` with code `diverged` or `nothing_moved`, and
    whatever the reporter's `check` raises.
    """
    if phase.start_from == "best" and run.best:
        run.best.restore()
    run.best = BestEpoch(_movable(run.network, selection)) if keep_best else None
    with ExitStack() as stack:
        return _run_phase(run, phase, index, selection, stack)


def _run_phase(run: Run, phase: Phase, index: int, selection: Selection, stack: ExitStack) -> PhaseReport:
    started = time.perf_counter()
    schedule.freeze(run.network, selection)
    before = proof.fingerprint(selection.frozen), proof.fingerprint(selection.trained)
    current, cache = _prepare(run, phase, index, selection=selection, frozen=before[0], stack=stack)
    trainable, frozen = selection.sizes()
    run.reporter.report(
        PhaseStarted(phase=current.progress(1), trainable_parameters=trainable, frozen_parameters=frozen, cache=cache)
    )
    epochs, stopped_early = _train_epochs(run, current, selection)
    after = proof.fingerprint(selection.frozen), proof.fingerprint(selection.trained)
    held = proof.prove(str(phase.name), frozen=(before[0], after[0]), trained=(before[1], after[1]))
    checkpoint = _save_checkpoint(run, index)
    place = current.progress(epochs)
    run.reporter.report(PhaseFinished(phase=place, stopped_early=stopped_early, proof=held, checkpoint=checkpoint))
    return PhaseReport(
        name=str(phase.name),
        epochs_run=epochs,
        stopped_early=stopped_early,
        trainable_parameters=trainable,
        frozen_parameters=frozen,
        seconds=time.perf_counter() - started,
        proof=held,
        cache=cache,
    )


def _prepare(
    run: Run, phase: Phase, index: int, *, selection: Selection, frozen: proof.Fingerprint, stack: ExitStack
) -> tuple[_Current, CacheUse]:
    """The step and its execution: on cached features where that is right and pays."""
    prints = {id(variable): frozen[name] for name, variable in selection.frozen.items()}
    if run.network.model.losses:  # penalties of weights that train, which differ from phase to phase
        run.evaluation = EvaluationStep(run.network, run.objective)
    boundary, cached, use = caching.attempt(run, phase, selection, prints=prints, stack=stack)
    optimizer = _optimizer(run, phase, selection)
    examples = run.batch_size * phase.gradient_accumulation
    at_once = run.batch_size if phase.gradient_accumulation > 1 else None
    if boundary is None or cached is None:
        objective = run.augmenter.objective if run.augmenter else run.objective
        step = TrainStep(run.network, objective, optimizer, at_once=at_once)
        carried_out = execution.on_batches(run, step, examples_per_step=examples)
    else:
        step = TrainStep(run.network, run.objective, optimizer, caching.FromFeatures(boundary), at_once=at_once)
        carried_out = caching.on_features(run, step, boundary, cached, examples_per_step=examples)
    if phase.optimizer_state == "carry" and run.optimizer:
        optimizers.carry(run.optimizer, optimizer)
    run.optimizer = optimizer
    return _Current(phase, index, step, carried_out), use


def _optimizer(run: Run, phase: Phase, selection: Selection) -> keras.optimizers.Optimizer:
    """A new one, whose rates follow the phase."""
    rates = learning_rates.segments(
        phase.learning_rate_schedule,
        learning_rate=phase.optimizer.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=run.steps_per_epoch(run.batch_size * phase.gradient_accumulation),
    )
    return optimizers.build_optimizer(
        phase.optimizer, rates=rates, factors=selection.rate_factors(), scale_losses=run.scale_losses
    )


def _train_epochs(run: Run, current: _Current, selection: Selection) -> tuple[int, bool]:
    """Epochs that ran, and whether that was fewer than asked for."""
    options = current.phase.early_stopping
    early_stop = EarlyStop(options, _movable(run.network, selection)) if options else None
    epoch = 0
    while epoch < current.phase.epochs:
        epoch += 1
        metrics = _train_epoch(run, current, current.progress(epoch))
        if run.best:
            run.best.note(metrics["val_loss"])
        if early_stop and early_stop.stops_after(metrics["val_loss"]):
            break
    if early_stop:
        early_stop.restore()
    return epoch, epoch < current.phase.epochs


def _train_epoch(run: Run, current: _Current, place: PhaseProgress) -> dict[str, float]:
    """Train and validate one epoch, report it, and return its metrics."""
    started = time.perf_counter()
    with _divergence(run, place, "step"):
        trained = _train_steps(run, current, place)
    with _divergence(run, place, "validation batch"):
        validated = current.execution.validate()
    metrics = {
        **trained,
        **{f"val_{name}": value for name, value in validated.items()},
        "learning_rate": float(current.step.optimizer.learning_rate),
        "seconds": time.perf_counter() - started,
    }
    run.history.append(EpochFinished(phase=place, step=run.steps, metrics=metrics))
    run.reporter.report(run.history[-1])
    return metrics


def _train_steps(run: Run, current: _Current, place: PhaseProgress) -> dict[str, float]:
    # The epoch's number since the start of the job, so that no two phases see the same order.
    order = (run.seed, len(run.history))
    totals = Totals()
    before = run.steps
    run.reporter.check()
    for done, sums in current.execution.train(order):
        totals.add(sums)
        run.steps = before + done
        run.first_step_at = run.first_step_at or time.perf_counter()
        run.step_reports.finished(place, step=done, steps=current.execution.steps)
        run.reporter.check()
    return totals.metrics(run.objective.metric)


def _movable(network: Network, selection: Selection) -> schedule.Variables:
    weights = schedule.weights_of(network.model)
    return {name: variable for name, variable in weights.items() if name not in selection.frozen}


def _save_checkpoint(run: Run, index: int) -> str:
    """All weights of the model, as safetensors; the path is relative to the working folder."""
    arrays = canonical.weights_of(run.network.model)
    path = Path(CHECKPOINTS) / f"phase-{index:02d}.safetensors"
    (run.workdir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    durable.require_room(run.workdir, sum(array.nbytes for array in arrays.values()))
    with durable.replacing(run.workdir / path) as temporary:
        save_file(arrays, temporary)
    return path.as_posix()


@contextmanager
def _divergence(run: Run, place: PhaseProgress, unit: str) -> Iterator[None]:
    """Turn a loss that is no finite number into `UserError` with code `diverged`; `unit` is what was counted."""
    try:
        yield
    except NotFiniteError as error:
        message = (
            f"The training diverged: the loss became {error.loss} in phase '{place.name}', epoch {place.epoch}, {unit} "
            f"{error.step}; expected a finite number. Metrics of the last good epoch: {_last_metrics(run)}. "
            "Try a smaller learning_rate, clipnorm 1.0, or look for extreme values in the data."
        )
        raise UserError(message, code="diverged", phase=place.name) from error


def _last_metrics(run: Run) -> str:
    metrics = run.history[-1].metrics if run.history else {}
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "seconds") or "none"
