"""LiteRT (once TensorFlow Lite): one flat file for phones and small devices.

Inputs have a batch of one and no open axis, pictures the size that the job trained at: the accelerators of devices
take nothing else. Scaling is inside. Both files take raw examples in their own type and give float32; between
them, `litert_int8` computes in 8-bit integers throughout, with ranges measured on examples of the training split.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.domain.errors import UserError
from app.domain.exports import ExportedInput
from worker.engine.export.activations import bounded
from worker.engine.export.inputs import OUTPUT, Array, Batch, inputs_of, of_one_example
from worker.engine.export.saved_model import SIGNATURE, write_folder

_NO_OPERATOR = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")

Representative = Callable[[list[ExportedInput]], Iterator[Batch]]
"""Examples to measure the ranges of activations on, in the form of the file's inputs."""


class LiteRt:
    """Converted by TensorFlow's converter, loaded by the LiteRT interpreter."""

    def __init__(
        self, model: keras.Model, *, image_size: tuple[int, int] | None, representative: Representative | None = None
    ) -> None:
        """With `representative` examples, to 8 bits. Raises `UserError` if an input cannot be of one shape."""
        self._model = model
        self._representative = representative
        self.inputs = of_one_example(inputs_of(model), image_size=image_size)
        self._interpreter, self.runtime = _interpreter()

    def write(self, path: Path) -> None:
        """Convert and write."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            with bounded(self._model) if self._representative else nullcontext():
                write_folder(self._model, self.inputs, Path(folder))
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
            if self._representative:
                self._quantize(converter, self._representative)
            path.write_bytes(_converted(converter))

    def _quantize(self, converter: Any, representative: Representative) -> None:  # noqa: ANN401 (TensorFlow has no types)
        names = [each.name for each in self.inputs]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            (SIGNATURE, dict(zip(names, batch, strict=True))) for batch in representative(self.inputs)
        )

    def predict(self, path: Path, batches: list[Batch]) -> Array:
        """Load the file and ask it about batches of one: `(n, outputs)`."""
        interpreter = self._interpreter(model_path=str(path))
        ask = interpreter.get_signature_runner(SIGNATURE)
        names = [each.name for each in self.inputs]
        # Copies: what the interpreter gives is overwritten by its next answer.
        return np.concatenate([np.array(ask(**dict(zip(names, batch, strict=True)))[OUTPUT]) for batch in batches])


def _converted(converter: Any) -> bytes:  # noqa: ANN401 (TensorFlow has no types)
    """The file. Raises `UserError` where LiteRT has no operator for something in the model."""
    try:
        converted: bytes = converter.convert()
    except Exception as error:  # ConverterError, which TensorFlow has in no public place
        missing = sorted(set(_NO_OPERATOR.findall(str(error))))
        if not missing:
            raise
        message = (
            f"LiteRT has no operator for what the model computes with TensorFlow's {', '.join(missing)}. "
            "Ask for 'saved_model' instead."
        )
        raise UserError(message, code="export_not_possible") from error
    return converted


def _interpreter() -> tuple[Any, str]:
    """The interpreter's class and its name with its version; TensorFlow's own old one where LiteRT is missing."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return tf.lite.Interpreter, f"tf.lite {tf.__version__}"
    return Interpreter, f"ai-edge-litert {metadata.version('ai-edge-litert')}"
