"""ONNX: one file for onnxruntime and many other runtimes. Pictures of any size, batches of any size."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.domain.errors import UserError
from worker.engine.export.inputs import OUTPUT, STRING, Array, Batch, inputs_of, predicting, signature

OPSET = 18
"""Of 2022: every maintained runtime has it, and tf2onnx writes it."""


class Onnx:
    """Converted by tf2onnx, loaded by onnxruntime."""

    def __init__(self, model: keras.Model) -> None:
        """Raises `UserError` for a model that takes text, `ImportError` where a library is missing."""
        import onnxruntime
        import tf2onnx

        self._model = model
        self._convert = tf2onnx.convert.from_function
        self._session = onnxruntime.InferenceSession
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.inputs = inputs_of(model)
        text = [each.name for each in self.inputs if each.dtype == STRING]
        if text:
            message = (
                f"The model takes text ({', '.join(text)}), and ONNX has no operators that prepare text: a file could "
                "be written, but no runtime loads it. Ask for 'saved_model' instead."
            )
            raise UserError(message, code="export_not_possible")

    def write(self, path: Path) -> None:
        """Convert and write."""
        taken = [signature(self._model, self.inputs)]
        function = tf.function(predicting(self._model), input_signature=taken)
        written, _ = self._convert(function, taken, opset=OPSET)
        _hold_constants(written, function.get_concrete_function(*taken))
        path.write_bytes(written.SerializeToString())

    def predict(self, path: Path, batches: list[Batch]) -> Array:
        """Load the file and ask it about batches of one: `(n, outputs)`."""
        session = self._session(str(path), providers=["CPUExecutionProvider"])
        names = [each.name for each in self.inputs]
        asked = (dict(zip(names, batch, strict=True)) for batch in batches)
        return np.concatenate([session.run([OUTPUT], examples)[0] for examples in asked])


def _hold_constants(written: Any, traced: Any) -> None:  # noqa: ANN401 (an ONNX model, TensorFlow's concrete function)
    """Put values that a function found outside of it into the file: tf2onnx takes them for inputs.

    The means of a `Normalization` are such.
    """
    from onnx import numpy_helper

    places = traced.inputs[len(traced.inputs) - len(traced.captured_inputs) :]
    found = {place.name: value for place, value in zip(places, traced.captured_inputs, strict=True)}
    for given in [given for given in written.graph.input if given.name in found]:
        written.graph.input.remove(given)
        written.graph.initializer.append(numpy_helper.from_array(found[given.name].numpy(), given.name))
