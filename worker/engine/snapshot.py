"""Between a run and its checkpoints: what is taken, and how it is put back.

    take(run, at) ------------------------------------> Checkpoint
    restore(run, checkpoint)                            weights, random states, history, reports, clock
    restore_phase(at, checkpoint)                       optimizer, early stopping, fingerprints, place in the epoch

The order of the data needs nothing: it is a pure function of the seed and the number of epochs before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from app.domain.errors import PlatformError
from app.domain.progress import PhaseProgress, Resumed, ResumeFidelity
from app.domain.spec import ResolvedSpec
from worker.engine import rates, runtime, schedule, surgery
from worker.engine.checkpoint import Arrays, Checkpoint, Meta, Sums, Surroundings
from worker.engine.run import PhaseRun, Run
from worker.engine.schedule import Variables
from worker.engine.stopping import BestEpoch
from worker.engine.totals import NotFiniteError

# === Take ===


def take(run: Run, at: PhaseRun, *, finished: bool = False) -> Checkpoint:
    """All of it as it is now; `finished`: the phase has ended.

    Raises `NotFiniteError` if the last step diverged, or left weights that are no finite numbers: the loss is that of
    the weights before it.
    """
    total, steps = at.totals.state()
    weights = _finite_values(run, at)
    meta = Meta(
        identity=run.checkpoints.identity,
        surroundings=surroundings(),
        spec=run.spec.model_dump(mode="json"),
        phase=at.progress(at.epochs),
        phase_finished=finished,
        epoch_steps=at.steps,
        sums=Sums(total=total, steps=steps),
        stopping=at.early_stop.state if at.early_stop and not finished else None,
        start_loss=run.best.loss if run.best else None,
        fingerprints=None if finished else at.before,
        cached=None if finished else at.cached,
        steps=run.steps,
        history=list(run.history),
        phases=list(run.phases),
        phase_seconds=at.seconds,
        seconds=run.stages.seconds(),
    )
    arrays: dict[Any, Arrays] = {
        "weights": weights,
        "random": _values(random_states(run.network.model)),
        "optimizer": _values(optimizer_variables(run.optimizer)),
        "best": at.early_stop.best_values if at.early_stop and not finished else {},
        "start": run.best.values if run.best else {},
    }
    return Checkpoint(meta, arrays)


def check_finite(run: Run, at: PhaseRun) -> None:
    """Raise `NotFiniteError` if the last step diverged, as `take` does."""
    at.totals.state()
    _finite_values(run, at)


def _finite_values(run: Run, at: PhaseRun) -> Arrays:
    """The weights that training may have moved."""
    weights = _values(run.moved)
    step = at.steps or run.steps_per_epoch(run.batch_size * at.phase.gradient_accumulation)
    for name, array in weights.items():
        if array.dtype.kind not in "biu" and not np.isfinite(array).all():
            raise NotFiniteError(step, weights=name)
    return weights


def random_states(model: keras.Model) -> Variables:
    """The state of each random seed generator, by the path of the layer that draws from it."""
    found: Variables = {}
    for path, layer in surgery.leaf_layers(model):
        weights = {id(weight) for weight in layer.weights}
        states = [variable for variable in layer.variables if id(variable) not in weights]
        found |= {f"{path}/{number}": variable for number, variable in enumerate(states)}
    return found


def optimizer_variables(optimizer: keras.optimizers.Optimizer | None) -> Variables:
    """The optimizer's variables by their place, the same in every process; Keras numbers some of their names anew."""
    variables = optimizer.variables if optimizer is not None else []
    return {f"{number:05d}": variable for number, variable in enumerate(variables)}


def _values(variables: Variables) -> Arrays:
    return {name: np.array(variable) for name, variable in variables.items()}


# === Put back ===


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Make the run what it was, but for the phase in progress. Raises `PlatformError` if it does not fit the model.

    After the end of a phase, `run.optimizer` and `run.best` are that phase's, for one that carries on with them.
    """
    meta = checkpoint.meta
    weights = schedule.weights_of(run.network.model)
    run.moved = {name: weights[name] for name in checkpoint.arrays["weights"] if name in weights}
    _assign("weights", run.moved, checkpoint.arrays["weights"])
    _assign("random", random_states(run.network.model), checkpoint.arrays["random"])
    run.steps = meta.steps
    run.history = list(meta.history)
    run.phases = list(meta.phases)
    run.stages.go_on_from(meta.seconds)
    if meta.phase_finished:
        run.optimizer = _optimizer_of(run, meta.phase.index)
        _assign("optimizer", optimizer_variables(run.optimizer), checkpoint.arrays["optimizer"])
        run.best = BestEpoch(run.moved)
        run.best.go_on_from(meta.start_loss, checkpoint.arrays["start"])


def restore_weights(run: Run, checkpoint: Checkpoint) -> None:
    """Give the weights that may have moved the values of a checkpoint of the phase that trains, and nothing else."""
    _assign("weights", run.moved, checkpoint.arrays["weights"])


def restore_phase(run: Run, at: PhaseRun, checkpoint: Checkpoint) -> None:
    """Make the phase in progress what it was. Raises `PlatformError` if it does not fit."""
    meta = checkpoint.meta
    _assign("optimizer", optimizer_variables(run.optimizer), checkpoint.arrays["optimizer"])
    if at.early_stop and meta.stopping:
        at.early_stop.go_on_from(meta.stopping, checkpoint.arrays["best"])
    if run.best:
        run.best.go_on_from(meta.start_loss, checkpoint.arrays["start"])
    at.before = meta.fingerprints or at.before
    at.epochs, at.steps = meta.phase.epoch, meta.epoch_steps
    at.totals.go_on_from(meta.sums.total, meta.sums.steps)
    at.seconds_before = meta.phase_seconds


def _optimizer_of(run: Run, index: int) -> keras.optimizers.Optimizer:
    """The optimizer that the phase with this index had, for one that carries its state on."""
    schedule.freeze(run.network, run.selections[index - 1])
    optimizer = rates.optimizer_of(run, index)
    optimizer.build(run.network.model.trainable_variables)
    return optimizer


def _assign(part: str, variables: Mapping[str, Any], arrays: Arrays) -> None:
    if variables.keys() != arrays.keys():
        strange = sorted(variables.keys() ^ arrays.keys())[:3]
        raise _unfit(part, f"only one side has {', '.join(strange)}")
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise _unfit(part, f"{name} has shape {tuple(variable.shape)}, in the checkpoint {arrays[name].shape}")
        variable.assign(arrays[name])


def _unfit(part: str, difference: str) -> PlatformError:
    message = (
        f"The checkpoint's {part} do not fit the job that it was written for: {difference}. It was written by another "
        "version of Thaw, Keras or TensorFlow; submit the job again, or run it with the versions that it began with."
    )
    return PlatformError(message, code="checkpoint_unusable")


# === What to expect ===


def surroundings() -> Surroundings:
    """Those of this process."""
    return Surroundings(
        versions=runtime.versions(),
        device=runtime.device_name(),
        machine=runtime.machine(),
        usable_cores=runtime.usable_cores(),
    )


def fidelity(now: Surroundings, differences: Sequence[str] = ()) -> ResumeFidelity:
    """`exact` on CPUs, where nothing differs. GPUs promise no order of sums from one process to the next."""
    return "exact" if now.device == "cpu" and not differences else "tolerance"


def differences(before: Surroundings, now: Surroundings) -> list[str]:
    """What has changed, in words."""
    pairs = {
        **{name: (before.versions.get(name), now.versions.get(name)) for name in {**before.versions, **now.versions}},
        "device": (before.device, now.device),
        "machine": (before.machine, now.machine),
        "usable cores": (before.usable_cores or now.usable_cores, now.usable_cores),  # unknown is no difference
    }
    return [f"{name} {old or 'none'}, now {new or 'none'}" for name, (old, new) in pairs.items() if old != new]


def resumed(checkpoint: Checkpoint, spec: ResolvedSpec, *, cached: bool | None = None) -> Resumed:
    """What is told of a run that goes on from this checkpoint with this spec.

    `cached`: whether the phase goes on with cached features; `None`: not known yet. They are computed in other batches
    than those of a step, and may differ in their last digits.
    """
    meta = checkpoint.meta
    now = surroundings()
    changed = differences(meta.surroundings, now)
    if (before := meta.spec["batch_size"]) != spec.batch_size:  # as many examples in a step, added up in other parts
        changed.append(f"batch_size {before}, now {spec.batch_size}")
    if other_features(meta, cached):
        changed.append(f"features {_CACHED[not cached]}, now {_CACHED[bool(cached)]}")
    return Resumed(
        phase=_next_epoch(meta),
        step=meta.steps,
        fidelity=fidelity(now, changed),
        differences=changed,
    )


_CACHED = {True: "cached", False: "not cached"}


def other_features(meta: Meta, cached: bool | None) -> bool:  # noqa: FBT001 (a fact, compared with the other one)
    """Whether the phase is known to have begun with cached features, and not to go on so, or the other way round."""
    return None not in {meta.cached, cached} and meta.cached != cached


def _next_epoch(meta: Meta) -> PhaseProgress:
    """The epoch that goes on or begins; at the end of a phase its last one."""
    epoch = meta.phase.epoch if meta.phase_finished else min(meta.phase.epoch + 1, meta.phase.epochs)
    return meta.phase.model_copy(update={"epoch": epoch})
