"""One phase of the schedule: freeze, train its epochs, prove.

freeze; fingerprint; cached features, if that is right and pays; optimizer and step anew
interrupted before: back to where the checkpoint says
for epoch:  for batch: check, step        # stopped or diverged: out, between two steps
            validate, report, early stopping?
            checkpoint
restore the best weights if asked to; prove; checkpoint

Whoever stops a run gets a checkpoint of the very step, unless nobody will go on from it.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors.numpy import save_file

from app.domain.caching import CacheUse
from app.domain.errors import UserError
from app.domain.progress import CheckpointWritten, EpochFinished, PhaseFinished, PhaseProgress, PhaseStarted
from app.domain.report import PhaseReport
from worker.engine import (
    caching,
    canonical,
    checkpoint,
    durable,
    execution,
    optimizers,
    proof,
    rates,
    schedule,
    snapshot,
)
from worker.engine.checkpoint import Checkpoint, Fingerprints
from worker.engine.execution import Execution
from worker.engine.reporter import TrainingStopped
from worker.engine.run import PhaseRun, Run
from worker.engine.schedule import Selection
from worker.engine.steps import EvaluationStep, Network, TrainStep
from worker.engine.stopping import BestEpoch, EarlyStop
from worker.engine.totals import NotFiniteError, Totals


def run_phase(run: Run, *, index: int, interrupted: Checkpoint | None = None) -> None:
    """Train one phase, and append its report to `run.phases`; `index` counts from 1.

    `interrupted`: a checkpoint from within this phase, to go on from. Raises `ProofError` if a frozen weight moved,
    `UserError` with code `diverged` or `nothing_moved`, and whatever the reporter's `check` raises.
    """
    at = _begin(run, index, interrupted)
    with ExitStack() as stack:
        carried_out, cache = _prepare(run, at, stack=stack)
        if interrupted:
            snapshot.restore_phase(run, at, interrupted)
        trainable, frozen = at.selection.sizes()
        place = at.progress(min(at.epochs + 1, at.phase.epochs))
        run.reporter.report(
            PhaseStarted(phase=place, trainable_parameters=trainable, frozen_parameters=frozen, cache=cache)
        )
        _train_epochs(run, at, carried_out)
    if at.early_stop:
        at.early_stop.restore()
    run.phases.append(_report(at, cache))
    _tell_end(run, at)
    _keep(run, at, finished=True)


def _begin(run: Run, index: int, interrupted: Checkpoint | None) -> PhaseRun:
    """What is to be known of the phase before anything of it trains."""
    phase, selection = run.spec.schedule[index - 1], run.selections[index - 1]
    later = run.spec.schedule[index:]
    if phase.start_from == "best" and run.best and not interrupted:
        run.best.restore()
    movable = _movable(run.network, selection)
    run.moved |= movable
    run.best = BestEpoch(movable) if later and later[0].start_from == "best" else None
    schedule.freeze(run.network, selection)
    return PhaseRun(
        phase=phase,
        index=index,
        selection=selection,
        early_stop=EarlyStop(phase.early_stopping, movable) if phase.early_stopping else None,
        before=Fingerprints(frozen=proof.fingerprint(selection.frozen), trained=proof.fingerprint(selection.trained)),
    )


def _prepare(run: Run, at: PhaseRun, *, stack: ExitStack) -> tuple[Execution, CacheUse]:
    """The step and its execution: on cached features where that is right and pays."""
    phase, selection = at.phase, at.selection
    prints = {id(variable): at.before.frozen[name] for name, variable in selection.frozen.items()}
    if run.network.model.losses:  # penalties of weights that train, which differ from phase to phase
        run.evaluation = EvaluationStep(run.network, run.objective)
    boundary, cached, use = caching.attempt(run, phase, selection, prints=prints, stack=stack)
    optimizer = rates.optimizer_of(run, at.index)
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
    run.optimizer = at.optimizer = optimizer
    return carried_out, use


def _report(at: PhaseRun, cache: CacheUse) -> PhaseReport:
    """What the phase did, with its proof."""
    trainable, frozen = at.selection.sizes()
    held = proof.prove(
        str(at.phase.name),
        frozen=(at.before.frozen, proof.fingerprint(at.selection.frozen)),
        trained=(at.before.trained, proof.fingerprint(at.selection.trained)),
    )
    return PhaseReport(
        name=str(at.phase.name),
        epochs_run=at.epochs,
        stopped_early=at.epochs < at.phase.epochs,
        trainable_parameters=trainable,
        frozen_parameters=frozen,
        seconds=at.seconds,
        proof=held,
        cache=cache,
    )


def _tell_end(run: Run, at: PhaseRun) -> None:
    done = run.phases[-1]
    weights = _write_weights(run, at.index)
    place = at.progress(at.epochs)
    run.reporter.report(
        PhaseFinished(phase=place, stopped_early=done.stopped_early, proof=done.proof, checkpoint=weights)
    )


def _movable(network: Network, selection: Selection) -> schedule.Variables:
    weights = schedule.weights_of(network.model)
    return {name: variable for name, variable in weights.items() if name not in selection.frozen}


# === Epochs ===


def _train_epochs(run: Run, at: PhaseRun, execution: Execution) -> None:
    try:
        while not at.over:
            metrics = _train_epoch(run, at, execution)
            if run.best:
                run.best.note(metrics["val_loss"])
            if at.early_stop:
                at.early_stop.note(metrics["val_loss"])
            if not at.over and run.checkpoints.due:
                _keep(run, at)
    except TrainingStopped as stopped:
        if stopped.keep and run.steps > run.checkpoints.kept_steps:
            with _divergence(run, at.progress(at.epochs + 1), "step"):
                _keep(run, at)
        raise


def _train_epoch(run: Run, at: PhaseRun, execution: Execution) -> dict[str, float]:
    """Train and validate one epoch, or what is left of it, report it, and return its metrics."""
    started = time.perf_counter()
    place = at.progress(at.epochs + 1)
    with _divergence(run, place, "step"):
        trained = _train_steps(run, at, execution, place)
    with _divergence(run, place, "validation batch"):
        validated = execution.validate()
    metrics = {
        **trained,
        **{f"val_{name}": value for name, value in validated.items()},
        "learning_rate": float(at.optimizer.learning_rate),
        "seconds": time.perf_counter() - started,
    }
    at.epochs, at.steps, at.totals = place.epoch, 0, Totals()
    run.history.append(EpochFinished(phase=place, step=run.steps, metrics=metrics))
    run.reporter.report(run.history[-1])
    return metrics


def _train_steps(run: Run, at: PhaseRun, execution: Execution, place: PhaseProgress) -> dict[str, float]:
    # The epoch's number since the start of the job, so that no two phases see the same order.
    order = (run.seed, len(run.history))
    before = run.steps - at.steps
    run.reporter.check()
    for done, sums in execution.train(order, done=at.steps):
        at.totals.add(sums)
        at.steps, run.steps = done, before + done
        run.stages.first_step()
        run.step_reports.finished(place, step=done, steps=execution.steps)
        run.reporter.check()
    return at.totals.metrics(run.objective.metric)


# === Checkpoints ===


def _keep(run: Run, at: PhaseRun, *, finished: bool = False) -> None:
    """Write a checkpoint, and tell of it."""
    taken = snapshot.take(run, at, finished=finished)
    number, folder = run.checkpoints.write(taken)
    run.reporter.report(
        CheckpointWritten(
            phase=at.progress(at.epochs + bool(at.steps)),
            number=number,
            step=run.steps,
            metrics={} if at.steps else run.history[-1].metrics,
            folder=folder.relative_to(run.workdir).as_posix(),
            files=sorted(path.name for path in folder.iterdir()),
            fidelity=snapshot.fidelity(taken.meta.surroundings),
        )
    )


def _write_weights(run: Run, index: int) -> str:
    """All weights of the model, as safetensors; the path is relative to the working folder."""
    arrays = canonical.weights_of(run.network.model)
    path = Path(checkpoint.FOLDER) / f"phase-{index:02d}.safetensors"
    (run.workdir / checkpoint.FOLDER).mkdir(parents=True, exist_ok=True)
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
