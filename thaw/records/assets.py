"""Files, models and datasets as the service describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thaw.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """Why a job, model or dataset failed, and whose fault it was."""

    code: str
    message: str
    error_class: str | None = field(default=None, metadata={"wire": "class"})
    """`user`, `platform`, `capacity` or `budget`."""
    param: str | None = None
    phase: str | None = None
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class File(Record):
    """Bytes that somebody uploaded."""

    id: str
    filename: str
    bytes: int
    created_at: float = 0.0
    purpose: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Upload(Record):
    """A file that arrives in parts."""

    id: str
    status: str
    """`pending`, `completed`, `cancelled` or `expired`."""
    bytes: int
    """Size of the whole file."""
    filename: str
    created_at: float = 0.0
    expires_at: float = 0.0
    purpose: str | None = None
    sha256: str | None = None
    file: File | None = None
    """What it has become."""


@dataclass(frozen=True, kw_only=True)
class UploadPart(Record):
    """A part that has arrived."""

    id: str
    number: int
    bytes: int = 0
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelInput(Record):
    """One input of a model."""

    name: str
    shape: Sequence[int | None] = ()
    """With the batch axis, as `None`, first."""
    dtype: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelSummary(Record):
    """What registration found out about a model."""

    format: str | None = None
    class_name: str | None = None
    input_shape: Sequence[int | None] | None = None
    """With the batch axis, as `None`, first: `[None, 224, 224, 3]`; of the first input, if there are several."""
    inputs: Sequence[ModelInput] = ()
    output_shape: Sequence[int | None] | None = None
    parameters: int | None = None
    layers: int | None = None
    origin: str | None = None
    """Where it came from, if not from an upload or a job."""
    digest: str | None = None
    upgrades: Sequence[str] = ()
    """What had to be changed in the file's configuration so that it loads."""


@dataclass(frozen=True, kw_only=True)
class Model(Record):
    """A Keras model that Thaw knows: a source somebody registered, or the result of a job."""

    id: str
    status: str
    """`validating`, `ready` or `failed`."""
    name: str = ""
    created_at: float = 0.0
    file: str | None = None
    reference: str | None = None
    """The name that it was registered by, if it came from no file."""
    job: str | None = None
    error: Failure | None = None
    rescale: str | None = None
    labels: Sequence[str] | None = None
    formats: Sequence[str] = ()
    """What it can be downloaded as, by name."""
    summary: ModelSummary | None = None


@dataclass(frozen=True, kw_only=True)
class CatalogueModel(Record):
    """A model that may be named without a file."""

    id: str
    """Its name; options go behind it: `keras:MobileNet?alpha=0.25`."""
    parameters: int = 0
    input_size: int = 0
    """Height and width that it was trained with."""
    rescale: str | None = None
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What may follow the `?`, and what each option may be; the default comes first, or there is none."""


@dataclass(frozen=True, kw_only=True)
class Layer(Record):
    """One layer of a model, as cuts and `unfreeze` count them: nested models are opened, depth first."""

    index: int
    path: str
    """What `cut.layer` takes."""
    class_name: str = ""
    output_shape: Sequence[object] | None = None
    parameters: int = 0
    has_weights: bool = False
    legal_cut: bool = False
    illegal_because: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split(Record):
    """One split of a dataset."""

    examples: int
    class_counts: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class CorruptExample(Record):
    """An example that could not be read."""

    name: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TableColumn(Record):
    """A column that a table's examples are made of."""

    name: str
    type: str = ""
    """`number` or `category`."""
    missing: int = 0
    categories: int | None = None


@dataclass(frozen=True, kw_only=True)
class ArrayInput(Record):
    """Examples for one input of a model with several."""

    name: str
    example_shape: Sequence[int] = ()
    dtype: str = ""
    value_range: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """A validated, immutable set of examples with its splits."""

    id: str
    status: str
    """`validating`, `ready` or `failed`."""
    name: str = ""
    created_at: float = 0.0
    file: str | None = None
    error: Failure | None = None
    kind: str | None = None
    task: str | None = None
    classes: Sequence[str] | None = None
    splits: Mapping[str, Split] | None = None
    example_shape: Sequence[int | None] | None = None
    """Without the batch axis; `None` where examples differ."""
    dtype: str | None = None
    value_range: Sequence[float] | None = None
    columns: Sequence[TableColumn] = ()
    features: Sequence[str] = ()
    """Of tables: what the numbers of an example mean, in their order."""
    inputs: Sequence[ArrayInput] = ()
    """For models with several inputs; the three above are then those of the first."""
    corrupt: Sequence[CorruptExample] = ()
    corrupt_count: int = 0
    duplicates_across_splits: int = 0
    near_duplicates_across_splits: int = 0
    warnings: Sequence[str] = ()
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class PreviewExample(Record):
    """One example to look at."""

    split: str
    index: int
    label: object = None
    shape: Sequence[int] = ()
    image_png: str | None = None
    """The picture as base64 of a PNG file."""
    values: Sequence[float] | None = None
    row: Mapping[str, object] | None = None
    """Of tables: the columns' values; `None` where one is missing."""
    text: str | None = None
    """Of texts: how it begins."""
