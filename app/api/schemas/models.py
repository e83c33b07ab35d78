"""Models on the wire."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from app.api.schemas.base import ListOf, Wire
from app.domain.catalogue import PREFIX, Application, options_of
from app.domain.errors import Failure
from app.domain.exports import ModelFile
from app.domain.model import LayerRow, Model, ModelFormat, ModelInput, ModelOptions, SourceInfo
from app.domain.spec import Rescale
from app.domain.states import AssetStatus

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]


class ModelRequest(ModelOptions):
    """Register an uploaded file, a model of the catalogue, or a checkpoint of a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"file": "file-01jd8k2v7e0000000000000000", "name": "mobilenet"},
                {"reference": "keras:MobileNet?alpha=0.25&input_size=160"},
            ]
        }
    )

    file: str | None = Field(default=None, min_length=1, max_length=100, examples=["file-01jd8k2v7e0000000000000000"])
    """The id of an uploaded `.keras` or `.h5` file."""
    reference: str | None = Field(default=None, min_length=1, max_length=300, examples=["keras:MobileNetV2"])
    """Instead of a file: a name of the catalogue (`/v1/catalogue`), with options behind a `?`; a file of the
    Hugging Face Hub, `hf://owner/name@revision/model.keras`; a preset of KerasHub, `keras_hub:resnet_18_imagenet`; or a
    checkpoint's id."""
    name: Name | None = Field(default=None, examples=["mobilenet"])
    """How people call it; left out: the name of the file or in the catalogue."""

    def options(self) -> ModelOptions:
        """What is to be kept with the model."""
        return ModelOptions(rescale=self.rescale, labels=self.labels)


class ModelSummary(Wire):
    """What registration found out; the layers are at `/layers`."""

    format: ModelFormat
    """What kind of file it was; `catalogue` and `checkpoint`: none."""
    class_name: str
    """`Sequential` or `Functional`."""
    input_shape: list[int | None]
    """With the batch axis first, as `null`."""
    inputs: list[ModelInput]
    """All inputs, in the model's order; `input_shape` is that of the first. Empty for models registered long ago."""
    output_shape: list[int | None]
    """With the batch axis first, as `null`."""
    parameters: int
    """Numbers in its weights."""
    layers: int
    """How many layers it has, those of nested models counted."""
    origin: str | None
    """Where it came from, if not from an upload or as a job's result; of a hub, with the commit."""
    digest: str
    """sha256 over the architecture and every weight: equal digests are equal models."""
    upgrades: list[str]
    """What had to be changed in the file's configuration so that it loads, in sentences."""

    @classmethod
    def of(cls, info: SourceInfo) -> Self:
        """The wire form."""
        names = set(cls.model_fields) - {"layers"}
        return cls(**{name: getattr(info, name) for name in names}, layers=len(info.layers))


class ModelObject(Wire):
    """A model that Thaw knows: a source somebody registered, or the result of a job."""

    id: str = Field(examples=["model-01jd8k2v7e0000000000000000"])
    """Names the model."""
    object: Literal["model"] = "model"
    """Always `model`."""
    created: int
    """When it came to be; OpenAI's name for it."""
    created_at: int
    """When it came to be."""
    owned_by: Literal["thaw"] = "thaw"
    """Always `thaw`."""
    name: str
    """How people call it."""
    status: AssetStatus
    """`validating` until a worker has checked the file or built the model, then `ready` or `failed`."""
    file: str | None
    """The upload that it was registered from."""
    reference: str | None
    """The name that it was registered by, in its shortest spelling, or the checkpoint that it was made from."""
    job: str | None
    """The job whose result it is, or whose checkpoint it was made from."""
    error: Failure | None
    """Why registration failed."""
    rescale: Rescale | None
    """How it wants its inputs, where known; jobs use it unless they say otherwise."""
    labels: list[str] | None
    """Names of its outputs in order, where known."""
    formats: list[ModelFile]
    """What `/content?format=` can give; without `format` it gives the upload, or `model.keras`."""
    summary: ModelSummary | None
    """What registration found out; `null` until the status is `ready`."""

    @classmethod
    def of(cls, model: Model) -> Self:
        """The wire form."""
        info = model.info
        return cls(
            id=model.id,
            created=int(model.created_at),
            created_at=int(model.created_at),
            name=model.name,
            status=model.status,
            file=model.file_id,
            reference=model.reference,
            job=model.job_id,
            error=model.error,
            rescale=info.rescale if info else model.options.rescale,
            labels=info.labels if info else model.options.labels,
            formats=list(model.files()),
            summary=ModelSummary.of(info) if info else None,
        )


class ModelList(ListOf[ModelObject]):
    """A page of models."""


class CatalogueObject(Wire):
    """A model that may be named without a file."""

    id: str = Field(examples=["keras:MobileNet"])
    """Its name; options go behind it: `keras:MobileNet?alpha=0.25&input_size=160`."""
    object: Literal["catalogue_model"] = "catalogue_model"
    """Always `catalogue_model`."""
    parameters: int
    """Numbers in its weights with the default options."""
    input_size: int
    """Height and width that it was trained with."""
    rescale: Rescale
    """How it wants its inputs: jobs see to that. `none`: it scales 8-bit values itself."""
    options: dict[str, list[str]]
    """What may follow the `?`, and what each option may be; the default comes first, or there is none."""

    @classmethod
    def of(cls, application: Application) -> Self:
        """The wire form."""
        return cls(
            id=f"{PREFIX}{application.name}",
            parameters=application.parameters,
            input_size=application.input_size,
            rescale=application.rescale,
            options=options_of(application),
        )


class CatalogueList(ListOf[CatalogueObject]):
    """The whole catalogue."""


class LayerObject(LayerRow, Wire):
    """One layer of a model, as cuts and `unfreeze` count them: nested models are opened, depth first."""

    model_config = ConfigDict(title="LayerObject")

    @classmethod
    def of(cls, row: LayerRow) -> Self:
        """The wire form."""
        return cls(**row.model_dump())


class LayerList(ListOf[LayerObject]):
    """All layers of a model."""
