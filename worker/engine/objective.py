"""What a task is trained and measured by: loss, and one metric that people read.

task          output                  loss                               metric
binary        sigmoid (batch, 1)      binary crossentropy                accuracy
single_label  softmax (batch, n)      sparse categorical crossentropy    accuracy
regression    linear  (batch, n)      mean squared error                 mae

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
"""A sigmoid above this means the second class, as in Keras' `BinaryAccuracy`."""


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a task."""

    task: Task
    mixed: bool = False
    """Whether labels are parts of classes."""

    @property
    def metric(self) -> Literal["accuracy", "mae"]:
        """The metric's name, as Keras names it."""
        return "mae" if self.task == "regression" else "accuracy"

    @property
    def label_dtype(self) -> str:
        """`int32` class indices `(batch,)`, or `float32` targets `(batch, targets)` and parts of classes."""
        return "float32" if self.task == "regression" or self.mixed else "int32"

    @property
    def label_rank(self) -> int:
        """Axes of the label of one example: 1 if it is a number for each output, 0 if it is a single one."""
        return int(self.task == "regression" or (self.task == "single_label" and self.mixed))

    def loss(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """Mean loss of a batch, as a scalar."""
        losses = {
            "binary": keras.losses.binary_crossentropy,
            "single_label": (
                keras.losses.categorical_crossentropy if self.mixed else keras.losses.sparse_categorical_crossentropy
            ),
            "regression": keras.losses.mean_squared_error,
        }
        targets = ops.expand_dims(labels, -1) if self.task == "binary" else labels
        return ops.mean(losses[self.task](targets, outputs))

    def score(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """The metric of each example `(batch,)`: 1.0 where the class is right, or the mean absolute error."""
        if self.task == "regression":
            return ops.mean(ops.abs(labels - outputs), axis=-1)
        return ops.cast(ops.equal(self._largest(labels), self.classes(outputs)), "float32")

    def _largest(self, labels: Tensor) -> Tensor:
        """The class of each example, or the one with the largest part in it."""
        if not self.mixed:
            return ops.cast(labels, "int32")
        return self.classes(labels if self.label_rank else ops.expand_dims(labels, -1))

    def classes(self, outputs: Tensor) -> Tensor:
        """The predicted class of each example `(batch,)`, int32."""
        if self.task == "binary":
            return ops.cast(ops.squeeze(outputs, -1) > THRESHOLD, "int32")
        return ops.cast(ops.argmax(outputs, axis=-1), "int32")
