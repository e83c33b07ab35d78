"""Models: a source's layer table and what Thaw knows about it after registration."""

from typing import Literal

from pydantic import Field

from app.domain.artifacts import Artifact, Bundle
from app.domain.base import Value
from app.domain.errors import Failure
from app.domain.exports import FILES, ModelFile
from app.domain.probe import Probe
from app.domain.spec import Rescale
from app.domain.states import AssetStatus

ModelFormat = Literal["keras", "h5", "catalogue", "preset", "checkpoint"]
"""`keras`: a `.keras` archive (Keras 3); `h5`: HDF5 written by `model.save`, Keras 2 or 3; `catalogue`: no file, built
by name; `preset`: a backbone of KerasHub; `checkpoint`: the weights at the end of a phase of a job."""


class LayerRow(Value):
    """One layer of a source, as cuts and `unfreeze` count them: nested models are opened, depth first."""

    index: int
    """Position from 0; `keep_first: n` keeps the rows with `index < n`."""
    path: str
    """What `cut.layer` takes: the layer's name, with the names of the models around it: `outer/inner`."""
    class_name: str
    """Of Keras, such as `Dense`."""
    output_shape: list[int | None] | list[list[int | None]] | None
    """With the batch axis first, as `None`; a list of shapes if there are several outputs."""
    parameters: int
    """Numbers in its weights, batch-norm statistics included."""
    has_weights: bool
    """Whether there is anything to train or freeze; only such layers count in `unfreeze`."""
    legal_cut: bool
    """Whether `cut.layer` may name it: all that the head would need passes through its one output."""
    illegal_because: str | None = None
    """Why it may not, in a sentence."""
    inputs: list[int] | None = None
    """Indices of the rows that feed this one; `None`: the row before it, as in a plain stack of layers."""
    trainable_parameters: int | None = None
    """Numbers in the weights that training may change: batch-norm statistics do not count; `None`: not looked at."""
    stochastic: bool | None = None
    """Whether it gives something else each time while training: dropout, noise; `None`: told by its class."""
    batch_norm: bool | None = None
    """Whether it is, or wraps, BatchNormalization; `None`: told by its class."""


class ModelInput(Value):
    """One input of a model."""

    name: str
    """As the model's own input layer is called."""
    shape: list[int | None]
    """With the batch axis."""
    dtype: str
    """What it takes."""


class SourceInfo(Value):
    """What registration found out about a model; stored with it."""

    format: ModelFormat
    keras_version: str | None
    """The version that wrote the file, as it says itself."""
    class_name: str
    """`Sequential` or `Functional`."""
    name: str
    input_shape: list[int | None]
    """With the batch axis: `[None, 224, 224, 3]`."""
    input_dtype: str
    """Of the first input, as `input_shape`."""
    inputs: list[ModelInput] = Field(default_factory=list)
    """All inputs, in the model's order. Empty for models that were registered before there could be several."""
    output_shape: list[int | None]
    parameters: int
    layers: list[LayerRow]
    rescale: Rescale | None
    """How the source wants its inputs, if whoever registered it said so or the model came out of a job."""
    labels: list[str] | None = None
    """Names of its outputs, where known."""
    features: list[str] | None = None
    """Results of jobs on tables: what the numbers that it takes mean, in their order."""
    upgrades: list[str] = Field(default_factory=list)
    """What had to be changed in the file's configuration so that it loads, in sentences."""
    origin: str | None = None
    """Where it came from, if not from an upload or as the result of a job: a name in the catalogue, a
    checkpoint, a file of a hub with the commit that it was at, a preset of KerasHub with its version."""
    digest: str
    """sha256 over the architecture and every weight: equal digests are equal models."""
    probe: Probe | None = None
    """How fast it computes; `None`: not measured. Not in the canonical files, which follow from the model alone."""


class ModelOptions(Value):
    """What a person may say about a model when registering it."""

    rescale: Rescale | None = None
    """How the source wants its inputs; jobs use it unless they say otherwise."""
    labels: list[str] | None = Field(default=None, min_length=1, max_length=100_000)
    """Names of its outputs, in order."""


class Model(Value):
    """A Keras model that Thaw knows: a source somebody registered, or the result of a job."""

    id: str
    name: str
    created_at: float
    """Unix seconds, like all times here."""
    status: AssetStatus
    file_id: str | None
    """The upload that it was registered from."""
    reference: str | None
    """The name, in its shortest spelling, or the checkpoint that it was registered from."""
    job_id: str | None
    """The job whose result it is, or whose checkpoint."""
    options: ModelOptions
    info: SourceInfo | None
    """Set once the status is `ready`."""
    canonical: Bundle | None
    """What training processes open: `config.json`, `weights.safetensors`, `source.json`."""
    download: Bundle
    """What people download: the upload as it came, or the job's `model.keras` and its exports; none by name."""
    error: Failure | None

    def file(self, wanted: ModelFile | None) -> Artifact | None:
        """What to download in this format; without one, the upload as it came or `model.keras`."""
        if wanted is None:
            return self.download[0] if self.download else None
        return self.files().get(wanted)

    def files(self) -> dict[ModelFile, Artifact]:
        """What there is in formats that have a name. An upload is no more than what it was registered as."""
        if self.job_id is None:
            is_keras = self.info is not None and self.info.format == "keras"
            return {"keras": self.download[0]} if is_keras and self.download else {}
        by_name = {artifact.name: artifact for artifact in self.download}
        return {wanted: by_name[name] for wanted, name in FILES.items() if name in by_name}
