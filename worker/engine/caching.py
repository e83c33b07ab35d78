"""Training on cached features: what stands below the boundary of a phase runs once, not once for each epoch.

    find the boundary -> does it pay, is it right? -> features, found or made -> certificate -> train the rest

Whether a phase is cached follows from its specification alone, so a resumed job decides as it did before; only what
cannot be helped, such as a full disk, turns it off, and where that happens within a phase, the job says so.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from app.domain.caching import PAYS_FROM_MULTIPLY_ADDS, CacheUse
from app.domain.cost import multiply_adds
from app.domain.errors import UserError, WorkError
from app.domain.phases import Phase
from worker.engine import boundary as boundaries
from worker.engine import durable, features
from worker.engine.boundary import Boundary
from worker.engine.data import Split, epoch_order, map_ordered
from worker.engine.execution import Execution
from worker.engine.features import Features, NoRoomError, NotCacheableError, Prefix
from worker.engine.objective import Tensor
from worker.engine.run import Run
from worker.engine.schedule import Selection
from worker.engine.steps import EvaluationStep, Sums, TrainStep, label_spec, traced
from worker.engine.totals import Totals

TOLERANCE = 1e-3
"""Largest difference of features, relative to the largest of them if that is above 1. Convolutions differ by about
1e-5 when only the batch size changes; a wrong prefix shows in the first digit."""
SAMPLE_BATCHES = 2
EXECUTION_SECONDS = 0.2
"""Steps are carried out together for about so long: a cancel is seen in time, and Python costs next to nothing."""
MEMORY_BYTES = 1024**3
"""Features up to this are held in memory."""


class FromFeatures:
    """A `Forward` from the boundary's values."""

    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary
        symbolic = [boundary.wiring.symbolic[key] for key in boundary.keys]
        self.inputs = [tf.TensorSpec((None, *each.shape[1:]), each.dtype) for each in symbolic]

    def prepare(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """They are prepared."""
        return inputs

    def train(self, prepared: Sequence[Tensor]) -> Tensor:
        """The layers above the boundary, in training mode."""
        return self._run(prepared, training=True)

    def infer(self, inputs: Sequence[Tensor]) -> Tensor:
        """The layers above the boundary."""
        return self._run(inputs, training=False)

    def _run(self, values: Sequence[Tensor], *, training: bool) -> Tensor:
        wiring = self._boundary.wiring
        return wiring.run(dict(zip(self._boundary.keys, values, strict=True)), wiring.outputs, training=training)[0]


# === Whether ===


def attempt(
    run: Run, phase: Phase, selection: Selection, *, prints: dict[int, str], stack: ExitStack
) -> tuple[Boundary | None, Features | None, CacheUse]:
    """The boundary and features of a phase, if it is to train on them, and what its record says.

    `prints`: fingerprints of the frozen weights by the ids of their variables. The features stay until `stack` is
    closed. Raises `UserError` with code `cache_impossible` where the job requires what cannot be, and `PlatformError`
    with code `storage_full` where only the disk has no room for it.
    """
    found = boundaries.find(run.network, run.wiring, selection)
    use = CacheUse(used=False, boundary=list(found.makers))
    if why_not := _not_wanted(run, phase, found):
        return None, None, use.model_copy(update={"reason": why_not})
    try:
        prefix = Prefix(run, found)
        cached = _obtain(run, found, prefix, prints, stack)
        difference = _certify(run, prefix, cached)
    except NotCacheableError as error:
        if run.cache == "require":
            raise _refusal(phase, error) from error
        return None, None, use.model_copy(update={"reason": str(error)})
    passes = phase.epochs - (not cached.found)
    certified = {
        "used": True,
        "bytes": cached.bytes,
        "in_memory": cached.bytes <= MEMORY_BYTES,
        "found": cached.found,
        "pass_seconds": cached.pass_seconds,
        "saved_seconds": passes * cached.pass_seconds,
        "largest_difference": difference,
    }
    return found, cached, use.model_copy(update=certified)


def _not_wanted(run: Run, phase: Phase, found: Boundary) -> str | None:
    """Why not to try; follows from the specification alone. Raises `UserError` if it is required and wrong."""
    if run.cache == "off":
        return "the job switches it off"
    if not found.has_weights:
        return "no frozen layer with weights stands below what trains or draws at random"
    hindrance = boundaries.hindrance(found.prefix)
    if run.augmenter:
        hindrance = "augmentation changes the examples in every epoch"
    if hindrance and run.cache == "require":
        raise _impossible(phase, hindrance)
    if hindrance or run.cache == "require":
        return hindrance
    passes = (phase.epochs - 1) * (len(run.train) + len(run.validation))
    return "it would save too little" if passes * _multiply_adds(run, found) < PAYS_FROM_MULTIPLY_ADDS else None


def _multiply_adds(run: Run, found: Boundary) -> int:
    below = {id(layer) for layer in found.prefix}
    calls = [call for call in found.wiring.calls if id(call.operation) in below]
    return sum(
        multiply_adds(
            sum(math.prod(weight.shape) for weight in getattr(call.operation, "weights", ())),
            call.node.output_tensors[0].shape,
            run.preprocess.output_shape,
        )
        for call in calls
    )


def _refusal(phase: Phase, error: NotCacheableError) -> WorkError:
    """A disk may have room later, or another worker's; all else is so wherever the job runs."""
    return durable.storage_full(str(error)) if isinstance(error, NoRoomError) else _impossible(phase, str(error))


def _impossible(phase: Phase, why: str) -> UserError:
    message = (
        f"The job requires cached features, and phase '{phase.name}' cannot have them: {why}. "
        "Set cache to 'auto', which trains without them there."
    )
    return UserError(message, code="cache_impossible", param="cache", phase=phase.name)


def _obtain(run: Run, found: Boundary, prefix: Prefix, prints: dict[int, str], stack: ExitStack) -> Features:
    try:
        with run.stages.stage("caching_features"):
            return features.obtain(run, found, prefix, prints=prints, stack=stack)
    except OSError as error:
        if error.errno not in durable.NO_ROOM:
            raise
        message = "there is no room on the disk for the features"
        raise NoRoomError(message) from error


def _certify(run: Run, prefix: Prefix, cached: Features) -> float:
    """The largest difference between cached features and those of the first training batches."""
    order = (run.seed, len(run.history))
    positions = epoch_order(len(run.train), order)
    largest = 0.0
    batches = iter(run.train.batches(run.batch_size, preprocess=run.preprocess, shuffle_seed=order))
    for start in range(0, min(len(positions), SAMPLE_BATCHES * run.batch_size), run.batch_size):
        chosen = positions[start : start + run.batch_size]
        for value, array in zip(prefix(next(batches)[0]), cached.arrays["train"], strict=True):
            stored = array[chosen].astype("float64")
            difference = float(np.max(np.abs(value.astype("float64") - stored), initial=0.0))
            if not difference <= TOLERANCE * max(1.0, float(np.max(np.abs(stored), initial=0.0))):
                message = f"its values differ by {difference:.2g} from those of a training batch"
                raise NotCacheableError(message)
            largest = max(largest, difference)
    return largest


# === How ===


def on_features(run: Run, step: TrainStep, found: Boundary, cached: Features, *, examples_per_step: int) -> Execution:
    """Steps on cached features; `step` must begin at the boundary."""
    evaluation = EvaluationStep(run.network, run.objective, FromFeatures(found))
    kind = _InMemory if cached.bytes <= MEMORY_BYTES else _FromFile
    return kind(run, step, evaluation, cached, examples_per_step)


class _InMemory:
    """Many steps in one execution, on tensors that hold a whole split."""

    def __init__(self, run: Run, step: TrainStep, evaluation: EvaluationStep, cached: Features, size: int) -> None:
        self._metric = run.objective.metric
        self._check = run.reporter.check
        self._train = _Loop(run, run.train, cached.arrays["train"], step.body, size)
        validation = cached.arrays["validation"]
        self._validation = _Loop(
            run, run.validation, validation, lambda *batch: evaluation.body(*batch)[0], run.batch_size
        )
        self.steps = self._train.steps

    def train(self, order: tuple[int, int], *, done: int = 0) -> Iterator[tuple[int, Sums]]:
        return self._train.run(order, done=done)

    def validate(self) -> dict[str, float]:
        totals = Totals()
        for _, sums in self._validation.run(None):
            self._check()
            totals.add(sums)
        return totals.metrics(self._metric)


class _Loop:
    """The batches of an epoch, many in one call of one graph."""

    def __init__(self, run: Run, split: Split, arrays: Sequence[Any], body: Callable[..., Sums], size: int) -> None:
        self._count = len(split)
        self._batch_size = size
        labels = label_spec(run.network, run.objective)
        self._data = [*map(tf.constant, arrays), tf.constant(split.labels, labels.dtype)]
        self._body = body
        self._traced: Callable[..., Sums] | None = None
        self._together = 1
        self.steps = math.ceil(self._count / self._batch_size)

    def run(self, order: tuple[int, int] | None, *, done: int = 0) -> Iterator[tuple[int, Sums]]:
        """After each execution the steps done, and their sums `(n, 3)`."""
        positions = tf.constant(epoch_order(self._count, order), tf.int64)
        while done < self.steps:
            started, last = time.perf_counter(), min(done + self._together, self.steps)
            first_call = self._traced is None
            sums = self._execute(positions, done, last)
            if not first_call:
                self._adapt(last - done, time.perf_counter() - started)
            done = last
            yield done, sums

    def _adapt(self, steps: int, seconds: float) -> None:
        wanted = int(steps * EXECUTION_SECONDS / max(seconds, 1e-6))
        self._together = max(1, min(wanted, 8 * self._together))

    def _execute(self, positions: Tensor, first: int, last: int) -> Sums:
        if self._traced is None:
            specs = [tf.TensorSpec((None, *each.shape[1:]), each.dtype) for each in self._data]
            numbers = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int64)]
            self._traced = traced(self._steps, [*numbers, *specs])
        return self._traced(positions, tf.constant(first, tf.int64), tf.constant(last, tf.int64), *self._data)

    def _steps(self, positions: Tensor, first: Tensor, last: Tensor, *data: Tensor) -> Sums:
        def one(number: Tensor, sums: Any) -> tuple[Tensor, Any]:  # noqa: ANN401 (TensorFlow has no types)
            start = number * self._batch_size
            chosen = positions[start : tf.minimum(start + self._batch_size, self._count)]
            batch = [tf.gather(each, chosen) for each in data]
            return number + 1, sums.write(tf.cast(number - first, tf.int32), self._body(*batch))

        sums = tf.TensorArray(tf.float32, size=tf.cast(last - first, tf.int32), element_shape=(3,))
        _, sums = tf.while_loop(lambda number, _: number < last, one, (first, sums), parallel_iterations=1)
        return sums.stack()


class _FromFile:
    """A step at a time, on rows of memory-mapped files that a thread reads ahead."""

    def __init__(self, run: Run, step: TrainStep, evaluation: EvaluationStep, cached: Features, size: int) -> None:
        self._size = size
        self._run = run
        self._step = step
        self._evaluation = evaluation
        self._cached = cached
        self.steps = run.steps_per_epoch(size)

    def train(self, order: tuple[int, int], *, done: int = 0) -> Iterator[tuple[int, Sums]]:
        arrays = self._cached.arrays["train"]
        batches = self._batches(self._run.train, arrays, self._size, order, done)
        for number, (x, y) in enumerate(batches, start=done + 1):
            yield number, self._step(x, y)

    def validate(self) -> dict[str, float]:
        totals = Totals()
        arrays = self._cached.arrays["validation"]
        for x, y in self._batches(self._run.validation, arrays, self._run.batch_size, None, 0):
            self._run.reporter.check()
            totals.add(self._evaluation(x, y)[0])
        return totals.metrics(self._run.objective.metric)

    def _batches(
        self, split: Split, arrays: Sequence[Any], size: int, order: tuple[int, int] | None, skip: int
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        positions = epoch_order(len(split), order)
        blocks = [positions[start : start + size] for start in range(skip * size, len(positions), size)]

        def make(block: Any) -> tuple[list[Tensor], Tensor]:  # noqa: ANN401 (positions)
            return [tf.convert_to_tensor(array[block]) for array in arrays], tf.convert_to_tensor(split.labels[block])

        with ThreadPoolExecutor(1, "features") as pool:
            yield from map_ordered(pool, make, blocks, ahead=2)
