"""Datasets on the wire."""

from typing import Literal, Self

from pydantic import ConfigDict, Field

from app.api.schemas.base import ListOf, Wire
from app.api.schemas.models import Name
from app.domain.dataset import (
    ArrayInput,
    CorruptExample,
    Dataset,
    DatasetInfo,
    DatasetKind,
    DatasetOptions,
    PreviewExample,
    SplitInfo,
    SplitName,
)
from app.domain.errors import Failure
from app.domain.spec import Task
from app.domain.states import AssetStatus


class DatasetRequest(DatasetOptions):
    """Make a dataset of an uploaded file."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"file": "file-01jd8k2v7e0000000000000000", "name": "shoes"}]}
    )

    file: str = Field(min_length=1, max_length=100, examples=["file-01jd8k2v7e0000000000000000"])
    """The id of an uploaded zip or tar.gz of class folders, or of an npz: with `x` and `y`, or `x_train`, `y_train`, …;
    for a model with the inputs `left` and `right` with `x__left`, `x__right` and `y`, or `x_train__left`, …."""
    name: Name | None = Field(default=None, examples=["shoes"])
    """How people call it; left out: the file's name."""

    def options(self) -> DatasetOptions:
        """What is to be kept with the dataset."""
        return DatasetOptions(**{name: getattr(self, name) for name in DatasetOptions.model_fields})


class DatasetObject(Wire):
    """A validated, immutable set of examples with its splits. What validation finds out is `null` until `ready`."""

    id: str = Field(examples=["ds-01jd8k2v7e0000000000000000"])
    """Names the dataset."""
    object: Literal["dataset"] = "dataset"
    """Always `dataset`."""
    created_at: int
    """When it was made."""
    name: str
    """How people call it."""
    status: AssetStatus
    """`validating` until a worker has read all of it, then `ready` or `failed`."""
    file: str
    """The upload that it was made from."""
    options: DatasetOptions
    """As requested."""
    error: Failure | None
    """Why validation failed."""
    kind: DatasetKind | None = None
    """`images` or `arrays`."""
    task: Task | None = None
    """What there is to learn."""
    classes: list[str] | None = None
    """Names of the classes in the order of the labels; `null` for regression."""
    targets: int | None = None
    """Numbers to predict for each example in regression; 1 otherwise."""
    splits: dict[SplitName, SplitInfo] | None = None
    """How many examples each split has, and of which classes."""
    example_shape: list[int | None] | None = None
    """Without the batch axis; `null` inside where examples differ."""
    dtype: str | None = None
    """Of the stored examples."""
    value_range: tuple[float, float] | None = None
    """Smallest and largest value over all examples."""
    inputs: list[ArrayInput] | None = None
    """Arrays for models with several inputs: what each of them gets; the three above are then those of the first."""
    corrupt: list[CorruptExample] | None = None
    """The first examples that could not be read."""
    corrupt_count: int | None = None
    """How many could not be read."""
    duplicates_across_splits: int | None = None
    """Examples whose bytes stand in more than one split."""
    duplicates: list[list[str]] | None = None
    """The first of them."""
    warnings: list[str] | None = None
    """What is worth knowing before training on it."""
    digest: str | None = None
    """sha256 over examples, labels and splits: equal digests are equal datasets."""

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """The wire form."""
        info = dataset.info
        found = {name: getattr(info, name) for name in DatasetInfo.model_fields} if info else {}
        return cls(
            id=dataset.id,
            created_at=int(dataset.created_at),
            name=dataset.name,
            status=dataset.status,
            file=dataset.file_id,
            options=dataset.options,
            error=dataset.error,
            **found,
        )


class DatasetList(ListOf[DatasetObject]):
    """A page of datasets."""


class PreviewObject(PreviewExample, Wire):
    """One example for people to look at."""

    model_config = ConfigDict(title="PreviewObject")

    @classmethod
    def of(cls, example: PreviewExample) -> Self:
        """The wire form."""
        return cls(**example.model_dump())

    def name(self) -> str:
        """Its split and its place there."""
        return f"{self.split}/{self.index}"


class PreviewList(ListOf[PreviewObject]):
    """A few examples of each class."""
