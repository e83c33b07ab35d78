"""Datasets: what validation is asked for, and what it found out."""

from typing import Literal

from pydantic import Field, model_validator

from app.domain.artifacts import Bundle
from app.domain.base import Value
from app.domain.errors import Failure
from app.domain.spec import Task
from app.domain.states import AssetStatus

DatasetKind = Literal["images", "arrays", "table", "text"]
"""`images`: zip or tar.gz of class folders; `arrays`: npz with `x`, `y` (or `x_train`, `y_train`, …), or with
`x__left`, `x__right`, `y` for a model with the inputs `left` and `right`; `table`: CSV or Parquet with a target column;
`text`: CSV or Parquet with a column of texts and one of labels."""
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

MAX_CORRUPT_FRACTION = 0.05
MAX_LISTED = 100
"""At most so many corrupt or duplicate examples are listed by name; the counts are complete."""


class DatasetOptions(Value):
    """What a person may say about a dataset; everything is found out where it is left out."""

    kind: DatasetKind | None = None
    """Left out: found out from the file."""
    task: Task | None = None
    """Left out: class folders and integer labels are classes (two: binary), a table of 0 and 1 several labels at once
    (multi_label), other numbers regression."""
    validation_fraction: float = Field(default=0.15, gt=0, lt=0.9)
    """How much of the training examples is held back to choose by."""
    test_fraction: float = Field(default=0.15, gt=0, lt=0.9)
    """How much is held back to judge by. Fractions apply where the file does not bring that split itself."""
    split_seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Another seed, another split."""
    class_names: list[str] | None = Field(default=None, min_length=2, max_length=10_000)
    """All but images: what the labels 0, 1, 2, …, or the columns, mean. Left out: they are their own names."""
    target: str | list[str] | None = Field(default=None, examples=["quality"])
    """Tables and texts: what to predict, one column or several of numbers. Left out: the one named `target`, `label`,
    `class` or `y`."""
    text: str | None = Field(default=None, examples=["message"])
    """Texts: the column that holds them. Left out: the one named `text`."""
    columns: list[str] | None = Field(default=None, min_length=1, examples=[["alcohol", "pH", "colour"]])
    """Tables: the columns to predict from. Left out: all but the target."""
    drop: list[str] | None = Field(default=None, min_length=1, examples=[["id"]])
    """Tables: columns to leave out."""
    categorical: list[str] | None = Field(default=None, min_length=1, examples=[["zip_code"]])
    """Tables: columns whose numbers are names, not amounts. Columns of texts and bools are categories anyway."""
    standardize: bool = True
    """Tables: bring each column of numbers to mean 0 and deviation 1, as measured on the training split. `false` leaves
    them as they are, for sources that scale by themselves."""

    def targets(self) -> list[str]:
        """The columns to predict, if any are named."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())

    @model_validator(mode="after")
    def _some_left_to_train(self) -> "DatasetOptions":
        if self.validation_fraction + self.test_fraction >= 1:
            message = (
                "validation_fraction and test_fraction must leave something to train on; "
                f"received {self.validation_fraction} + {self.test_fraction}"
            )
            raise ValueError(message)
        return self


class SplitInfo(Value):
    """One split of a dataset."""

    examples: int
    """How many."""
    class_counts: dict[str, int] | None = None
    """Examples of each class, by its name; an example with several labels counts for each. `None` for regression."""


class CorruptExample(Value):
    """An example that could not be read."""

    name: str
    """Its path in the archive, or its index."""
    reason: str
    """Why it could not be read."""


class TableColumn(Value):
    """A column that a table's examples are made of: an input of the model that a job gives back."""

    name: str
    """As in the file; the model's input is called so too (with `_` for `/`)."""
    type: Literal["number", "category"]
    """`number`: float32, NaN where it is missing; `category`: string, empty where it is missing."""
    missing: int
    """Rows of the file without a value here."""
    categories: int | None = None
    """Different values that the training split has; `null` for numbers."""


class ArrayInput(Value):
    """Examples for one input of a model with several, all of one shape."""

    name: str
    """Of the model's input."""
    example_shape: list[int]
    """Without the batch axis."""
    dtype: str
    """Of the stored examples."""
    value_range: tuple[float, float]
    """Smallest and largest value over all examples."""


class DatasetInfo(Value):
    """What validation found out about a dataset; stored with it."""

    kind: DatasetKind
    task: Task
    example_shape: list[int | None]
    """Without the batch axis; `None` where examples differ: `[None, None, 3]`."""
    dtype: str
    """Of the stored examples: `uint8` images, `float32` rows of tables, `string` texts, or the array's own."""
    value_range: tuple[float, float] | None
    """Smallest and largest value over all examples; `None` for texts."""
    inputs: list[ArrayInput] = Field(default_factory=list)
    """Arrays for models with several inputs: what each of them gets, by name; shape, dtype and range above are then
    those of the first. Empty where examples are one array."""
    classes: list[str] | None
    """Names of the classes in the order of the labels; `None` for regression."""
    targets: int = 1
    """Numbers to predict for each example in regression; 1 otherwise."""
    splits: dict[SplitName, SplitInfo]
    columns: list[TableColumn] | None = None
    """Tables: the columns that examples are made of, in the file's order."""
    features: list[str] | None = None
    """Tables: what the numbers of an example mean, in their order: numbers, which of them are missing, categories."""
    corrupt: list[CorruptExample] = Field(default_factory=list)
    corrupt_count: int = 0
    duplicates_across_splits: int = 0
    """Examples whose bytes stand in more than one split, exactly."""
    duplicates: list[list[str]] = Field(default_factory=list)
    near_duplicates_across_splits: int = 0
    """Images that are nearly equal to one in another split: scaled or compressed copies, or the same view again. At
    least so many, where very many images look alike."""
    near_duplicates: list[list[str]] = Field(default_factory=list)
    """The first such pairs."""
    warnings: list[str] = Field(default_factory=list)
    digest: str
    """sha256 over examples, labels and splits: equal digests are equal datasets."""


class PreviewExample(Value):
    """One example for people to look at."""

    split: SplitName
    """Where it stands."""
    index: int
    """Its place there, from 0."""
    label: str | float | list[str] | list[float]
    """The name of its class, the names of its labels, or the numbers to predict."""
    shape: list[int]
    """Without the batch axis."""
    image_png: str | None = None
    """The picture, at most 128 pixels wide, as base64 of a PNG file; `None` for arrays that are no pictures."""
    values: list[float] | None = None
    """The first 32 numbers of an array that is no picture."""
    row: dict[str, str | float | None] | None = None
    """Tables: the values of its columns as they stand in the file; `null` where one is missing."""
    text: str | None = None
    """The first 500 characters of a text."""


class Dataset(Value):
    """A validated, immutable set of examples with its splits."""

    id: str
    name: str
    created_at: float
    """Unix seconds, like all times here."""
    status: AssetStatus
    file_id: str
    options: DatasetOptions
    info: DatasetInfo | None
    """Set once the status is `ready`."""
    canonical: Bundle | None
    """What training processes read."""
    error: Failure | None
