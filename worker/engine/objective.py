"""What a task is trained and measured by: loss, and one metric that people read.

task          output                  loss                               metric
binary        sigmoid (batch, 1)      binary crossentropy                accuracy
single_label  softmax (batch, n)      sparse categorical crossentropy    accuracy
multi_label   sigmoids (batch, n)     binary crossentropy, mean of n     label_accuracy
regression    linear  (batch, n)      mean squared error                 mae

Class weights and label smoothing are for training alone: validation and test losses are about the labels as they are,
and can be compared between jobs.

Labels of pictures that were mixed with each other are float32: the part of each class `(batch, n)`, or of the second
one `(batch,)`. The loss is then the crossentropy with these parts; an example counts as right where the model names
the class that has the largest.
"""

from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops

from app.domain.spec import Task

Tensor = Any
"""A TensorFlow tensor; neither Keras nor TensorFlow has types."""

THRESHOLD = 0.5
"""A sigmoid above this means the second class, or that the label is there, as in Keras' `BinaryAccuracy`."""


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a task."""

    task: Task
    class_weights: tuple[float, ...] | None = None
    """What an example of each class counts in training; `None`: 1."""
    label_smoothing: float = 0.0
    """Of each label, what is spread over all classes in training."""
    mixed: bool = False
    """Whether labels are parts of classes."""

    @property
    def metric(self) -> Literal["accuracy", "label_accuracy", "mae"]:
        """The metric's name, as Keras names it; `label_accuracy`: the mean over labels of their accuracies."""
        names: dict[Task, Literal["label_accuracy", "mae"]] = {"multi_label": "label_accuracy", "regression": "mae"}
        return names.get(self.task, "accuracy")

    @property
    def label_dtype(self) -> str:
        """`int32` class indices; `float32` targets, 0 or 1 for each of several labels, and parts of classes."""
        return "int32" if self.one_label and not self.mixed else "float32"

    @property
    def one_label(self) -> bool:
        """Whether labels are `(batch,)`, one number for each example, and not as wide as the outputs."""
        return self.task == "binary" or (self.task == "single_label" and not self.mixed)

    def loss(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """Mean loss of a batch, as a scalar."""
        return ops.mean(self._losses(labels, outputs, smoothing=0.0))

    def training_loss(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """The mean loss of a batch that training lowers: examples weighted, labels smoothed.

        As in Keras the weighted losses are divided by the number of examples, not by the sum of weights.
        """
        if self.class_weights is None and not self.label_smoothing:
            return self.loss(labels, outputs)
        losses = self._losses(labels, outputs, smoothing=self.label_smoothing)
        return ops.mean(losses if self.class_weights is None else losses * self._weights(labels))

    def _weights(self, labels: Tensor) -> Tensor:
        """Of each example `(batch,)`; a mixture counts as its parts do."""
        weights = ops.convert_to_tensor(self.class_weights, dtype="float32")
        if not self.mixed:
            return ops.take(weights, ops.cast(labels, "int32"))
        parts = labels if self.task == "single_label" else ops.stack([1.0 - labels, labels], axis=-1)
        return ops.matmul(parts, weights)

    def score(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """The metric of each example `(batch,)`: 1.0 where the class is right, or a mean over its labels or targets."""
        if self.task == "regression":
            return ops.mean(ops.abs(labels - outputs), axis=-1)
        right = ops.cast(ops.equal(self._largest(labels), self.classes(outputs)), "float32")
        return ops.mean(right, axis=-1) if self.task == "multi_label" else right

    def _largest(self, labels: Tensor) -> Tensor:
        """The class of each example, or the one with the largest part in it; 0 or 1 for each of several labels."""
        if not self.mixed:
            return ops.cast(labels, "int32")
        return self.classes(ops.expand_dims(labels, -1) if self.task == "binary" else labels)

    def classes(self, outputs: Tensor) -> Tensor:
        """The predicted class of each example `(batch,)`, or 0 or 1 for each label `(batch, n)`; int32."""
        if self.task == "single_label":
            return ops.cast(ops.argmax(outputs, axis=-1), "int32")
        chosen = ops.cast(outputs > THRESHOLD, "int32")
        return ops.squeeze(chosen, -1) if self.task == "binary" else chosen

    def _losses(self, labels: Tensor, outputs: Tensor, *, smoothing: float) -> Tensor:
        """Of each example `(batch,)`."""
        match self.task:
            case "regression":
                return keras.losses.mean_squared_error(labels, outputs)
            case "multi_label":
                return keras.losses.binary_crossentropy(labels, outputs, label_smoothing=smoothing)
            case "binary":
                return keras.losses.binary_crossentropy(ops.expand_dims(labels, -1), outputs, label_smoothing=smoothing)
            case "single_label" if self.mixed:
                return keras.losses.categorical_crossentropy(labels, outputs, label_smoothing=smoothing)
            case "single_label" if smoothing:
                spread = ops.one_hot(labels, outputs.shape[-1])
                return keras.losses.categorical_crossentropy(spread, outputs, label_smoothing=smoothing)
            case "single_label":
                return keras.losses.sparse_categorical_crossentropy(labels, outputs)
