"""The training step and the evaluation step, each traced once.

Measured: `fit` traces its train step twice, and again for each new batch shape. Here the signature leaves the
batch axis open, and the optimizer's variables exist before, so that one trace serves all batches of a phase.
Steps are not compiled by XLA: on CPUs it made an epoch of MobileNetV2 seven times slower.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from worker.engine.objective import Objective, Tensor

Sums = Tensor
"""`(3,)` float32: loss times examples, sum of the metric, examples."""


@dataclass(frozen=True)
class Network:
    """A model in two parts that share its layers: `model(x)` is `head(backbone(x))`."""

    model: keras.Model
    backbone: keras.Model
    head: keras.Model


class TrainStep:
    """One optimizer step on a batch; returns its `Sums` from before the update.

    A backbone of which nothing trains runs as it will after the training: dropout and noise inside it are off,
    and no gradient is computed through it. As soon as some of it trains, all of it runs in training mode, as in
    Keras. BatchNormalization is held still by its own `trainable = False` in both cases.
    """

    def __init__(self, network: Network, objective: Objective, optimizer: keras.optimizers.Optimizer) -> None:
        self.optimizer = optimizer
        self._network = network
        self._objective = objective
        self._variables = network.model.trainable_variables
        optimizer.build(self._variables)
        step = self._whole_step if network.backbone.trainable_variables else self._head_step
        self._traced = _traced(step, network, objective)

    def __call__(self, x: Tensor, y: Tensor) -> Sums:
        """Train on one batch: `x` float32 `(batch, …)`, `y` as the objective's labels."""
        return self._traced(x, y)

    def _head_step(self, x: Tensor, y: Tensor) -> Sums:
        features = self._network.backbone(x, training=False)
        with tf.GradientTape() as tape:
            outputs = self._network.head(features, training=True)
            loss = self._total_loss(y, outputs)
        return self._update(tape, loss, y, outputs)

    def _whole_step(self, x: Tensor, y: Tensor) -> Sums:
        with tf.GradientTape() as tape:
            outputs = self._network.model(x, training=True)
            loss = self._total_loss(y, outputs)
        return self._update(tape, loss, y, outputs)

    def _total_loss(self, y: Tensor, outputs: Tensor) -> Tensor:
        return sum(self._network.model.losses, start=self._objective.loss(y, outputs))

    def _update(self, tape: Any, loss: Tensor, y: Tensor, outputs: Tensor) -> Sums:  # noqa: ANN401 (TensorFlow has no types)
        gradients = tape.gradient(loss, self._variables)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return _sums(loss, self._objective.score(y, outputs))


class EvaluationStep:
    """Runs the model on a batch without training it; traced at its first use."""

    def __init__(self, network: Network, objective: Objective) -> None:
        self._network = network
        self._objective = objective
        self._function: Callable[[Tensor, Tensor], tuple[Sums, Tensor]] | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Sums, Tensor]:
        """The batch's sums and the model's outputs `(batch, outputs)`."""
        if self._function is None:
            self._function = _traced(self._step, self._network, self._objective)
        return self._function(x, y)

    def _step(self, x: Tensor, y: Tensor) -> tuple[Sums, Tensor]:
        outputs = self._network.model(x, training=False)
        loss = sum(self._network.model.losses, start=self._objective.loss(y, outputs))
        return _sums(loss, self._objective.score(y, outputs)), outputs


def _sums(loss: Tensor, scores: Tensor) -> Sums:
    examples = ops.cast(ops.shape(scores)[0], "float32")
    return ops.stack([loss * examples, ops.sum(scores), examples])


def _traced(step: Callable[..., Any], network: Network, objective: Objective) -> Callable[..., Any]:
    model = network.model
    x = tf.TensorSpec((None, *model.inputs[0].shape[1:]), "float32")
    y = tf.TensorSpec(
        (None, *model.outputs[0].shape[1:]) if objective.task == "regression" else (None,), objective.label_dtype
    )
    return tf.function(step, input_signature=(x, y), autograph=False, jit_compile=False).get_concrete_function()
