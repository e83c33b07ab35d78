"""One phase of the schedule: freeze, train its epochs, prove.

freeze; fingerprint; cached features, if that is right and pays; optimizer and step anew
interrupted before: back to where the checkpoint says
for epoch:  for batch: check, step        # stopped or diverged: out, between two steps
            validate, report, early stopping?
            checkpoint
restore the best weights if asked to; prove; checkpoint

Whoever stops a run gets a checkpoint of the very step, unless nobody will go on from it; of a job that may run no
longer, its weights.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors.numpy import save_file

from app.domain.caching import CacheUse
from app.domain.errors import UserError
from app.domain.progress import (
    CheckpointWritten,
    EpochFinished,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    WeightsKept,
)
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
            if snapshot.other_features(interrupted.meta, at.cached):  # the disk has less room than it had, or more
                run.reporter.report(snapshot.resumed(interrupted, run.spec, cached=at.cached))
        trainable, frozen = at.selection.sizes()
        place = at.progress(min(at.epochs + 1, at.phase.epochs))
        run.reporter.report(
            PhaseStarted(phase=place, trainable_parameters=trainable, frozen_parameters=frozen, cache=cache)
        )
        _train_epochs(run, at, carried_out)
    if at.early_stop:
        at.early_stop.restore()
    run.phases.append(_report(at, cache))
    taken = _taken(run, at, finished=True)
    _tell_end(run, at)
    _write(run, at, taken)


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
    at.cached = use.used
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
    weights = _write_weights(run, f"phase-{at.index:02d}")
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
        if stopped.over:
            _keep_weights(run, at)
        elif stopped.keep and run.steps > run.checkpoints.kept_steps:
            _keep(run, at)
        raise


def _train_epoch(run: Run, at: PhaseRun, execution: Execution) -> dict[str, float]:
    """Train and validate one epoch, or what is left of it, report it, and return its metrics."""
    started = time.perf_counter()
    place = at.progress(at.epochs + 1)
    with _divergence(run, at, place, "step"):
        trained = _train_steps(run, at, execution, place)
    with _divergence(run, at, place, "validation batch"):
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


def _keep(run: Run, at: PhaseRun) -> None:
    """Write a checkpoint, and tell of it."""
    _write(run, at, _taken(run, at))


def _taken(run: Run, at: PhaseRun, *, finished: bool = False) -> Checkpoint:
    with _divergence(run, at, at.progress(at.epochs + bool(at.steps)), "step"):
        return snapshot.take(run, at, finished=finished)


def _write(run: Run, at: PhaseRun, taken: Checkpoint) -> None:
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


def _keep_weights(run: Run, at: PhaseRun) -> None:
    """Write the weights of a phase that will not end, as they are, and tell of them; unless it has done nothing yet."""
    if not at.epochs and not at.steps:
        return
    place = at.progress(at.epochs + bool(at.steps))
    with _divergence(run, at, place, "step"):
        snapshot.check_finite(run, at)
    weights = _write_weights(run, f"phase-{at.index:02d}-last")
    metrics = {} if at.steps else run.history[-1].metrics
    run.reporter.report(WeightsKept(phase=place, step=run.steps, metrics=metrics, checkpoint=weights, which="last"))


def _write_weights(run: Run, name: str) -> str:
    """All weights of the model, as safetensors; the path is relative to the working folder."""
    arrays = canonical.weights_of(run.network.model)
    path = Path(checkpoint.FOLDER) / f"{name}.safetensors"
    (run.workdir / checkpoint.FOLDER).mkdir(parents=True, exist_ok=True)
    durable.require_room(run.workdir, sum(array.nbytes for array in arrays.values()))
    with durable.replacing(run.workdir / path) as temporary:
        save_file(arrays, temporary)
    return path.as_posix()


# === Divergence ===


@contextmanager
def _divergence(run: Run, at: PhaseRun, place: PhaseProgress, unit: str) -> Iterator[None]:
    """Turn numbers that are not finite into `UserError` with code `diverged`; `unit` is what was counted.

    The weights of the phase's best epoch are kept before, if it has a checkpoint.
    """
    try:
        yield
    except NotFiniteError as error:
        kept = _keep_best(run, at)
        message = (
            f"The training diverged: {error.what} in phase '{place.name}', epoch {place.epoch}, {unit} {error.step}; "
            f"expected a finite number. Metrics of the last good epoch: {_last_metrics(run)}. {kept}"
            "Try a smaller learning_rate, clipnorm 1.0, or look for NaN and extreme values in the data."
        )
        raise UserError(message, code="diverged", phase=place.name) from error


def _keep_best(run: Run, at: PhaseRun) -> str:
    """Write the weights of the best epoch of this phase, and tell of them; what people are told, or nothing."""
    best = run.checkpoints.best_within(at.index)
    if best is None:
        return ""
    snapshot.restore_weights(run, best)
    weights = _write_weights(run, f"phase-{at.index:02d}-best")
    epoch = best.meta.history[-1]
    run.reporter.report(WeightsKept(phase=epoch.phase, step=epoch.step, metrics=epoch.metrics, checkpoint=weights))
    return f"The weights after epoch {epoch.phase.epoch} of this phase are kept as a checkpoint of the job. "


def _last_metrics(run: Run) -> str:
    metrics = run.history[-1].metrics if run.history else {}
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "seconds") or "none"
