"""Datasets as they are stored: a folder that is written once, opened memory-mapped and never changed.

    dataset.json      DatasetInfo
    examples.npy      the values of all examples, one after another; of texts their UTF-8
    examples_1.npy …  the same for the second input and so on, for models with several
    shapes.npy        int32 (n, rank): the shape of each example; only where they differ
    table.json, numbers.npy, categories.npy     tables only: their rows, see `tables`
    labels.npy        int32 (n,) class indices, or float32 (n, targets) or (n, labels)
    train.npy, validation.npy, test.npy     int64: which examples, in the order of their digests

The order within a split depends on the examples alone, not on the archive that they came in, so equal digests
also mean equal training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from app.domain.dataset import DatasetInfo, SplitName
from app.domain.errors import PlatformError
from worker.engine.data.found import Array, examples_file
from worker.engine.data.pipeline import Batches, Preparation
from worker.engine.data.tables import StoredTable

Raw = Array | dict[str, Array]
"""One raw example with a batch axis, as the exported model takes it: an array, or by name one for each input, or for
each column of a table."""


class Storage(Protocol):
    """The raw examples of all splits."""

    def take(self, indices: Array) -> Array | list[Array] | dict[str, Array]:
        """Copies of some examples: `(n, …)` where all have one shape, else a list; by name for several inputs."""

    def raw(self, index: int) -> Raw:
        """One example as it came."""


class FixedStorage:
    """Examples of one shape."""

    def __init__(self, flat: Array, shape: Sequence[int]) -> None:
        self._examples = flat.reshape(-1, *shape)

    def take(self, indices: Array) -> Array:
        """An array `(n, …)`."""
        return self._examples[indices]

    def raw(self, index: int) -> Raw:
        """An array `(1, …)`."""
        return self._examples[index : index + 1]


class TextStorage:
    """Texts."""

    def __init__(self, flat: Array, lengths: Array) -> None:
        self._bytes = flat
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def take(self, indices: Array) -> Array:
        """An array `(n,)` of `bytes`, each a text in UTF-8."""
        return np.array([self._one(int(index)) for index in indices], object)

    def raw(self, index: int) -> Raw:
        """An array `(1,)` of one `bytes`."""
        return self.take(np.array([index]))

    def _one(self, index: int) -> bytes:
        return self._bytes[self._offsets[index] : self._offsets[index + 1]].tobytes()


class TableStorage(FixedStorage):
    """The vectors of a table, and the rows that they were made of."""

    def __init__(self, flat: Array, table: StoredTable, numbers: Array, categories: Array) -> None:
        super().__init__(flat, [len(table.encoding.features)])
        self.table = table
        self._numbers = numbers
        self._categories = categories

    def raw(self, index: int) -> Raw:
        """Each column by its name, `(1, 1)`: float32 with NaN, or texts with the empty one, where it is missing."""
        row: dict[str, Array] = {}
        for place, number in enumerate(self.table.encoding.numbers):
            row[number.name] = self._numbers[index : index + 1, place : place + 1]
        for place, category in enumerate(self.table.encoding.categories):
            text = self.table.distinct[place][self._categories[index, place]]
            row[category.name] = np.array([[text]], object)
        return row


class SeveralStorage:
    """Examples for several inputs, each of one shape."""

    def __init__(self, inputs: dict[str, FixedStorage]) -> None:
        self._inputs = inputs

    def take(self, indices: Array) -> dict[str, Array]:
        """An array `(n, …)` for each input, in the order of their names."""
        return {name: storage.take(indices) for name, storage in self._inputs.items()}

    def raw(self, index: int) -> Raw:
        """An array `(1, …)` for each input."""
        return self.take(np.array([index]))


class RaggedStorage:
    """Pictures of different sizes; grayscale ones among colour ones get their three channels here."""

    def __init__(self, flat: Array, shapes: Array) -> None:
        self._flat = flat
        self._shapes = shapes
        self._offsets = np.concatenate([[0], np.cumsum(shapes.astype(np.int64).prod(axis=1))])
        self._channels = int(shapes[:, -1].max())

    def take(self, indices: Array) -> list[Array]:
        """Arrays `(height, width, channels)`, all with the same number of channels."""
        return [self._one(int(index)) for index in indices]

    def raw(self, index: int) -> Raw:
        """An array `(1, height, width, channels)`."""
        return self._one(index)[None]

    def _one(self, index: int) -> Array:
        values = self._flat[self._offsets[index] : self._offsets[index + 1]].reshape(self._shapes[index])
        if values.shape[-1] < self._channels:
            return np.repeat(values, self._channels, axis=-1)
        return values


class Split:
    """The examples of one split, in an order that depends on the examples alone."""

    def __init__(self, name: SplitName, storage: Storage, indices: Array, labels: Array) -> None:
        self.name = name
        self.labels = labels[indices]
        """int32 class indices `(n,)`, or float32 `(n, targets)`, or 0 or 1 for each of several labels."""
        self._storage = storage
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def has_rows(self) -> bool:
        """Whether its examples are rows of a table."""
        return isinstance(self._storage, TableStorage)

    def example(self, index: int) -> Array:
        """One raw example, as stored; of several inputs that for the first."""
        taken = self._storage.take(self._indices[index : index + 1])
        return np.asarray((next(iter(taken.values())) if isinstance(taken, dict) else taken)[0])

    def raw(self, index: int) -> Raw:
        """One example with a batch axis of 1, as the exported model takes it."""
        return self._storage.raw(int(self._indices[index]))

    def examples(self, positions: Array) -> Array | list[Array] | dict[str, Array]:
        """Some raw examples: `(n, …)` where all of the dataset have one shape, else a list; by name for inputs."""
        return self._storage.take(self._indices[positions])

    def batches(
        self, batch_size: int, *, preprocess: Preparation, shuffle_seed: tuple[int, int] | None = None, skip: int = 0
    ) -> Batches:
        """One epoch, to be iterated over as often as wanted: `(x, y)` with x float32 `(batch, …)` ready for the source.

        `shuffle_seed` is `(seed, epoch)`: the order is a pure function of it; `None` keeps the stored order. The last
        batch may be smaller. `skip` batches at the beginning are left out.
        """
        return Batches(
            self.examples,
            self.labels,
            batch_size=batch_size,
            preprocess=preprocess,
            shuffle_seed=shuffle_seed,
            skip=skip,
        )


class StoredDataset:
    """An opened dataset; reading it costs no memory but that of the examples asked for."""

    def __init__(self, info: DatasetInfo, storage: Storage, labels: Array, indices: dict[SplitName, Array]) -> None:
        self.info = info
        self.table = storage.table if isinstance(storage, TableStorage) else None
        """The encoding of a table's rows; `None` for other kinds."""
        self._splits = {name: Split(name, storage, chosen, labels) for name, chosen in indices.items()}

    def split(self, name: SplitName) -> Split:
        """The split `train`, `validation` or `test`; every dataset has all three."""
        return self._splits[name]


def open_dataset(folder: Path) -> StoredDataset:
    """Open a canonical dataset folder; PlatformError if it is incomplete."""
    try:
        info = DatasetInfo.model_validate_json((folder / "dataset.json").read_bytes())
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        indices = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in info.splits}
        return StoredDataset(info, _open_storage(folder, info), labels, indices)
    except (OSError, ValueError) as error:
        message = f"The stored dataset in {folder} cannot be opened: {error}. Validate the upload again."
        raise PlatformError(message, code="dataset_damaged") from error


def _open_storage(folder: Path, info: DatasetInfo) -> Storage:
    if info.inputs:
        shapes = {each.name: each.example_shape for each in info.inputs}
        return SeveralStorage(
            {name: FixedStorage(_flat(folder, index), shapes[name]) for index, name in enumerate(shapes)}
        )
    flat = _flat(folder)
    if info.kind == "text":
        return TextStorage(flat, np.load(folder / "shapes.npy", allow_pickle=False)[:, 0])
    if info.kind == "table":
        table = StoredTable.model_validate_json((folder / "table.json").read_bytes())
        rows = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("numbers.npy", "categories.npy")]
        return TableStorage(flat, table, np.asarray(rows[0]), np.asarray(rows[1]))
    if (folder / "shapes.npy").exists():
        return RaggedStorage(flat, np.load(folder / "shapes.npy", allow_pickle=False))
    return FixedStorage(flat, [size for size in info.example_shape if size is not None])


def _flat(folder: Path, index: int = 0) -> Array:
    # np.asarray: plain indexing is faster than numpy.memmap's.
    return np.asarray(np.load(examples_file(folder, index), mmap_mode="r", allow_pickle=False))
