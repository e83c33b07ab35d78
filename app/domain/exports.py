"""Exports: the result in other formats, for other runtimes.

    format        file               loaded by
    keras         model.keras        Keras; always there
    saved_model   saved_model.zip    TensorFlow, TensorFlow Serving
    litert        model.tflite       LiteRT (once TensorFlow Lite), float
    litert_int8   model_int8.tflite  the same, weights and activations in 8 bits
    onnx          model.onnx         onnxruntime and others

Each takes raw examples, as `model.keras` does. One that cannot be made, or does not predict what `model.keras` does,
is not published; it fails by name, and the job does not.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from app.domain.base import Value

ExportFormat = Literal["saved_model", "litert", "litert_int8", "onnx"]
"""What a job can be asked for beside `model.keras`."""
ModelFile = Literal["keras", "saved_model", "litert", "litert_int8", "onnx"]
"""The formats in which a model can be downloaded."""

FILES: Mapping[ModelFile, str] = {
    "keras": "model.keras",
    "saved_model": "saved_model.zip",
    "litert": "model.tflite",
    "litert_int8": "model_int8.tflite",
    "onnx": "model.onnx",
}
"""Names of the artifacts."""


class ExportedInput(Value):
    """One input of an exported file."""

    name: str = Field(examples=["examples"])
    """What its runtime calls it."""
    shape: list[int | None] = Field(examples=[[None, None, None, 3]])
    """With the batch axis first; `null` where any size is taken."""
    dtype: str = Field(examples=["uint8"])
    """Of raw examples."""


class Export(Value):
    """What became of one export that the job asked for."""

    format: ExportFormat
    """As asked for."""
    status: Literal["succeeded", "failed"]
    """`failed`: there is no file."""
    reason: str | None = None
    """Why it failed, and what to do."""
    file: str | None = Field(default=None, examples=["model.onnx"])
    """The artifact's name."""
    inputs: list[ExportedInput] = Field(default_factory=list)
    """What the file takes."""
    runtime: str | None = Field(default=None, examples=["onnxruntime 1.32.0"])
    """What loaded the file for the comparison."""
    opset: int | None = None
    """ONNX: the version of its operators."""
    examples: int | None = None
    """So many examples of the test split were compared with `model.keras`; for LiteRT, pictures resized first."""
    difference: float | None = None
    """The largest difference between its predictions and those of `model.keras`."""
    tolerance: float | None = None
    """The largest difference allowed; `null` for `litert_int8`, which is judged by `agreement` or `mean_difference`."""
    agreement: float | None = None
    """Classification: the fraction of the compared predictions that name the same class as `model.keras`."""
    mean_difference: float | None = None
    """`litert_int8` of a regression: mean difference, in standard deviations of the predictions of `model.keras`."""
    accuracy: float | None = None
    """Classification: the fraction of the compared examples that it got right; too few to judge a model by."""
    keras_accuracy: float | None = None
    """The same of `model.keras` on the same examples."""
    seconds: float | None = None
    """Wall time of conversion and comparison."""
