"""The training step and the evaluation step, each traced once.

Measured: `fit` traces its train step twice, and again for each new batch shape. Here the signature leaves the
batch axis open, and the optimizer's variables exist before, so that one trace serves all batches of a phase.
Steps are not compiled by XLA: on CPUs it made an epoch of MobileNetV2 seven times slower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras import ops

from worker.engine import graph
from worker.engine.objective import Objective, Tensor

Sums = Tensor
"""`(3,)` float32: loss times examples, sum of the metric, examples."""


@dataclass(frozen=True)
class Network:
    """A model in two parts that share its layers: `model(x)` is `head(backbone(x))`."""

    model: keras.Model
    backbone: keras.Model
    head: keras.Model


class Forward(Protocol):
    """The way from what an execution brings to the model's outputs."""

    @property
    def inputs(self) -> Sequence[tf.TensorSpec]:
        """What is brought: the source's inputs, or cached features. The batch axis is open."""

    def prepare(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The part that no gradient passes through, in inference mode."""

    def train(self, prepared: Sequence[Tensor]) -> Tensor:
        """The outputs `(batch, outputs)`, in training mode."""

    def infer(self, inputs: Sequence[Tensor]) -> Tensor:
        """The outputs without training, from what is brought."""


class WholeModel:
    """From the source's inputs.

    A backbone of which nothing trains runs as it will after the training: dropout and noise inside it are off,
    and no gradient is computed through it. As soon as some of it trains, all of it runs in training mode, as in
    Keras. BatchNormalization is held still by its own `trainable = False` in both cases.
    """

    def __init__(self, network: Network) -> None:
        """The trainable flags must be set already."""
        self._network = network
        self._rests = not network.backbone.trainable_variables
        self.inputs = [tf.TensorSpec((None, *each.shape[1:]), "float32") for each in network.model.inputs]

    def prepare(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The frozen backbone's features, or the inputs as they are."""
        return [self._network.backbone(graph.one_or_all(inputs), training=False)] if self._rests else inputs

    def train(self, prepared: Sequence[Tensor]) -> Tensor:
        """The head on the features, or all of the model."""
        return (self._network.head if self._rests else self._network.model)(graph.one_or_all(prepared), training=True)

    def infer(self, inputs: Sequence[Tensor]) -> Tensor:
        """All of the model."""
        return self._network.model(graph.one_or_all(inputs), training=False)


class TrainStep:
    """One optimizer step on a batch; returns its `Sums` from before the update.

    A batch larger than `at_once` goes through the network in parts, and their gradients are added up, each part by its
    share of the examples: where nothing depends on the batch, as BatchNormalization does, that is the gradient of the
    whole. Nothing of it outlives the step: a part is never left over for the next epoch or phase.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        optimizer: keras.optimizers.Optimizer,
        forward: Forward | None = None,
        *,
        at_once: int | None = None,
    ) -> None:
        """`forward`: `None` is `WholeModel`; `at_once`: `None` is all of a batch."""
        self.optimizer = optimizer
        self.forward = forward or WholeModel(network)
        self._network = network
        self._objective = objective
        self._at_once = at_once
        self._variables = network.model.trainable_variables
        self._traced: Callable[..., Sums] | None = None
        optimizer.build(self._variables)

    def __call__(self, x: Tensor, y: Tensor) -> Sums:
        """Train on one batch: `x` float32 `(batch, …)`, or a list of what `forward` takes; `y` the labels."""
        if self._traced is None:
            self._traced = traced(self.body, [*self.forward.inputs, label_spec(self._network, self._objective)])
        return self._traced(*(x if isinstance(x, list) else [x]), y)

    def body(self, *batch: Tensor) -> Sums:
        """The step itself, to be traced: inputs, then labels."""
        sums, gradients = self._gradients(batch) if self._at_once is None else self._in_parts(batch, self._at_once)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return sums

    def _gradients(self, batch: Sequence[Tensor], share: Tensor = 1.0, **options: Any) -> tuple[Sums, list[Tensor]]:  # noqa: ANN401 (of TensorFlow)
        *inputs, y = batch
        prepared = self.forward.prepare(inputs)
        with tf.GradientTape() as tape:
            outputs = self.forward.train(prepared)
            loss = _with_penalties(self._network, self._objective.training_loss(y, outputs))
            scaled = self.optimizer.scale_loss(loss * share)
        return _sums(loss, self._objective.score(y, outputs)), tape.gradient(scaled, self._variables, **options)

    def _in_parts(self, batch: Sequence[Tensor], size: int) -> tuple[Sums, list[Tensor]]:
        examples = tf.shape(batch[-1])[0]

        def add_part(start: Tensor, sums: Sums, totals: list[Tensor]) -> tuple[Tensor, Sums, list[Tensor]]:
            part = [tensor[start : start + size] for tensor in batch]
            share = tf.cast(tf.shape(part[-1])[0], "float32") / tf.cast(examples, "float32")
            more, gradients = self._gradients(part, share, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            added = [total + tf.convert_to_tensor(each) for total, each in zip(totals, gradients, strict=True)]
            return start + size, sums + more, added

        nothing = tf.constant(0), tf.zeros(3), [tf.zeros_like(variable.value) for variable in self._variables]
        loop = tf.while_loop(lambda start, *_: start < examples, add_part, nothing, parallel_iterations=1)
        return loop[1], loop[2]


class EvaluationStep:
    """Runs the model on a batch without training it; traced at its first use."""

    def __init__(self, network: Network, objective: Objective, forward: Forward | None = None) -> None:
        """`forward`: `None` is `WholeModel`."""
        self.forward = forward or WholeModel(network)
        self._network = network
        self._objective = objective
        self._traced: Callable[..., tuple[Sums, Tensor]] | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Sums, Tensor]:
        """The batch's sums and the model's outputs `(batch, outputs)`; `x` as `TrainStep` takes it."""
        if self._traced is None:
            self._traced = traced(self.body, [*self.forward.inputs, label_spec(self._network, self._objective)])
        return self._traced(*(x if isinstance(x, list) else [x]), y)

    def body(self, *batch: Tensor) -> tuple[Sums, Tensor]:
        """The step itself, to be traced: inputs, then labels."""
        *inputs, y = batch
        outputs = self.forward.infer(inputs)
        loss = _with_penalties(self._network, self._objective.loss(y, outputs))
        return _sums(loss, self._objective.score(y, outputs)), outputs


def _with_penalties(network: Network, loss: Tensor) -> Tensor:
    """Plus what the layers add by themselves, as regularizers do; float32 whatever the layers compute in."""
    return sum((ops.cast(penalty, "float32") for penalty in network.model.losses), start=loss)


def _sums(loss: Tensor, scores: Tensor) -> Sums:
    examples = ops.cast(ops.shape(scores)[0], "float32")
    return ops.stack([loss * examples, ops.sum(scores), examples])


def label_spec(network: Network, objective: Objective) -> tf.TensorSpec:
    """Of a batch's labels."""
    shape = (None,) if objective.one_label else (None, *network.model.outputs[0].shape[1:])
    return tf.TensorSpec(shape, objective.label_dtype)


def traced(function: Callable[..., Any], signature: Sequence[tf.TensorSpec]) -> Callable[..., Any]:
    """The function as one graph."""
    return tf.function(function, input_signature=signature, autograph=False, jit_compile=False).get_concrete_function()
