"""How the steps of a phase are carried out: who brings the examples, and how many steps go at once.

    on_batches      raw examples, read and preprocessed for each step

The loop over a phase (`phases`) sees only `Execution`: it counts steps, looks for a wish to stop and adds up
metrics between two of whatever this module carries out.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from worker.engine.data import Split
from worker.engine.objective import Tensor
from worker.engine.run import Run
from worker.engine.steps import Sums, TrainStep
from worker.engine.totals import Totals


class Execution(Protocol):
    """Carries out the epochs of one phase."""

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""

    def train(self, order: tuple[int, int], *, done: int = 0) -> Iterator[tuple[int, Sums]]:
        """One epoch, lazily: after each execution the steps done of this epoch, and the sums of that execution.

        `order` is `(seed, epoch)`: the order of the examples is a pure function of it. `done` steps at the
        beginning are left out, because they were carried out before an interruption. Nothing may be carried out
        ahead of what was yielded.
        """

    def validate(self) -> dict[str, float]:
        """Loss and metric over the validation split."""


def on_batches(run: Run, step: TrainStep, *, examples_per_step: int) -> Execution:
    """Each step on a batch of its own, made from raw examples."""
    return _OnBatches(run, step, examples_per_step)


class _OnBatches:
    def __init__(self, run: Run, step: TrainStep, size: int) -> None:
        self._run = run
        self._step = step
        self._size = size
        self.steps = run.steps_per_epoch(size)

    def train(self, order: tuple[int, int], *, done: int = 0) -> Iterator[tuple[int, Sums]]:
        run = self._run
        augmenter = run.augmenter
        preprocess = augmenter.resize if augmenter else run.preprocess
        batches = run.train.batches(self._size, preprocess=preprocess, shuffle_seed=order, skip=done)
        for number, (x, y) in enumerate(_tensors(batches), start=done + 1):
            batch = augmenter(x, y, order=order, step=number) if augmenter else (x, y)
            yield number, self._step(*batch)

    def validate(self) -> dict[str, float]:
        return evaluate_batches(self._run, self._run.validation)


def evaluate_batches(run: Run, split: Split, outputs: list[np.ndarray[Any, Any]] | None = None) -> dict[str, float]:
    """Loss and metric over a split; the model's outputs are appended to `outputs`, batch by batch."""
    totals = Totals()
    for x, y in _tensors(split.batches(run.batch_size, preprocess=run.preprocess, shuffle_seed=None)):
        run.reporter.check()
        sums, predicted = run.evaluation(x, y)
        totals.add(sums)
        if outputs is not None:
            outputs.append(np.asarray(predicted))
    return totals.metrics(run.objective.metric)


def _tensors(batches: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Tensor, Tensor]]:
    """With one tensor for each input where there are several."""
    for x, y in batches:
        inputs = [tf.convert_to_tensor(each) for each in x] if isinstance(x, list) else tf.convert_to_tensor(x)
        yield inputs, tf.convert_to_tensor(y)
