"""What may be asked of the service, as types. The service checks it; its `/docs` describes each field."""

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

NAMED = ("keras:", "hf://", "keras_hub:", "ckpt-")
"""What names of models begin with that need no upload."""

Rescale = Literal["none", "zero_to_one", "minus_one_to_one", "imagenet_mean_std", "imagenet_bgr_mean"]
"""How a source wants its inputs: raw values, x / 255, x / 127.5 - 1, or as Keras' modes `torch` and `caffe`."""

ExportFormat = Literal["saved_model", "litert", "litert_int8", "onnx"]
"""A format of the result that a job makes beside `model.keras`."""
ModelFile = Literal["keras", "saved_model", "litert", "litert_int8", "onnx"]
"""A format in which a model can be downloaded."""
ENDINGS: Mapping[ModelFile, str] = {
    "keras": ".keras",
    "saved_model": "-saved_model.zip",
    "litert": ".tflite",
    "litert_int8": "-int8.tflite",
    "onnx": ".onnx",
}
"""Of files that are called after their model."""


Preset = Literal["two_phase", "head_only", "gradual", "fine_tune", "full", "from_scratch"]
"""Schedules that have a name; the job shows the phases that one stands for."""


Priority = Literal["low", "normal", "high"]


class DatasetOptions(TypedDict, total=False):
    """What may be said about a dataset; everything is found out where it is left out."""

    name: str | None
    """What people will call it; left out, the file's name."""
    kind: Literal["images", "arrays", "table", "text"] | None
    task: Literal["binary", "single_label", "multi_label", "regression"] | None
    validation_fraction: float | None
    """Of the examples, where the file does not bring that split itself; 0.15 if left out."""
    test_fraction: float | None
    """As `validation_fraction`."""
    split_seed: int | None
    class_names: Sequence[str] | None
    """All but images: what the labels 0, 1, 2, … mean."""
    target: str | Sequence[str] | None
    """Tables and texts: the column to predict, or several of numbers."""
    text: str | None
    """Texts: the column that holds them."""
    columns: Sequence[str] | None
    """Tables: the columns to predict from; all others if left out."""
    drop: Sequence[str] | None
    """Tables: columns to leave out."""
    categorical: Sequence[str] | None
    """Tables: columns whose numbers are names, not amounts."""
    standardize: bool | None
    """Tables: whether numbers are brought to mean 0 and deviation 1 (yes, if left out)."""


class JobRequest(TypedDict, total=False):
    """What a job is asked to do: the fields of `POST /v1/fine_tuning/jobs`, of which two must be there.

    What is left out is the textbook recipe.
    """

    model: Required[str]
    """The id of a model, of an uploaded model file or of a job whose result it is, or a name of the catalogue."""
    training_file: Required[str]
    """A dataset's id, or the id of an uploaded data file."""
    cut: Mapping[str, object]
    """`{"drop_last": 1}`, `{"keep_first": 12}`, `{"layer": "block_12_add"}` or `{"fraction": 0.75}`."""
    head: Mapping[str, object] | Literal["keep"]
    """`{"layers": [{"type": "dropout", "rate": 0.2}]}`; the output layer is added. `keep`: the source's own."""
    schedule: Sequence[Mapping[str, object]] | Mapping[str, object] | Preset
    """A preset's name, or `{"preset": name, …}` with its options; or phases: `{"name", "unfreeze", "epochs",
    "optimizer", "learning_rate_schedule", "early_stopping", …}`."""
    cache: Literal["auto", "off", "require"]
    """Whether frozen layers run once instead of in every epoch."""
    batch_size: int
    preprocessing: Mapping[str, object]
    augmentation: Sequence[Mapping[str, object]]
    """`[{"type": "flip"}, {"type": "rotation", "degrees": 10}]`: at random, to training pictures alone."""
    backbone_weights: Literal["source", "random"]
    class_weights: Literal["balanced"] | Mapping[str, float] | None
    label_smoothing: float
    mixed_precision: Literal["off", "bfloat16", "float16"]
    exports: Sequence[ExportFormat]
    """Formats of the result beside `model.keras`."""
    seed: int | None
    suffix: str | None
    metadata: Mapping[str, str]
    priority: Priority
    """Queued jobs with a higher one go first."""
    max_seconds: float | None
    """How long it may run, in all attempts together."""
    deadline_at: float | None
    """When it must have ended, in Unix seconds."""


class RetryRequest(TypedDict, total=False):
    """What is to be different when a job is done again."""

    priority: Priority
    max_seconds: float
    deadline_at: float


class ForkRequest(TypedDict, total=False):
    """From where a fork starts, and what is to be different in it; what is left out is as in the job."""

    checkpoint: str
    """Weights of the job, by the id of their checkpoint."""
    after_phase: str
    """The end of a phase, by its name. Left out as well: the last that has ended, or where the job's time was over."""
    schedule: Sequence[Mapping[str, object]] | Mapping[str, object] | Preset
    """What to train from there; left out, what was left: epochs of that phase, and the phases after it."""
    training_file: str
    cache: Literal["auto", "off", "require"]
    batch_size: int
    class_weights: Literal["balanced"] | Mapping[str, float] | None
    label_smoothing: float
    mixed_precision: Literal["off", "bfloat16", "float16"]
    augmentation: Sequence[Mapping[str, object]]
    exports: Sequence[ExportFormat]
    seed: int
    suffix: str | None
    metadata: Mapping[str, str]
    priority: Priority
    max_seconds: float | None
    deadline_at: float
