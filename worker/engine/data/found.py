"""What the readers of images and arrays find in a file, before splits are made.

The values of the examples go straight to disk through `ExampleWriter`; what stays in memory is a few
hundred bytes for each example.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from app.domain.dataset import ArrayInput, CorruptExample, DatasetKind, SplitName
from app.domain.spec import Task

Array = npt.NDArray[Any]
Indices = dict[SplitName, Array]
"""Which examples each split has, by their position in `Found`."""


@dataclass
class Labels:
    """What the examples are to be taken for."""

    task: Task
    values: Array
    """int32 class indices `(n,)`, float32 0 or 1 for each label `(n, labels)`, or float32 `(n, targets)`."""
    classes: list[str] | None
    warnings: list[str] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether an example may have several labels."""
        return self.task == "multi_label"

    @property
    def targets(self) -> int:
        """Numbers to predict for each example; 1 for classes."""
        return 1 if self.classes else int(self.values.shape[1])


@dataclass
class Found:
    """The examples of a file, in the order in which they were written."""

    kind: DatasetKind
    names: Sequence[str]
    contents: list[bytes]
    """sha256 of what the file held for each example: equal ones are exact duplicates."""
    stored: list[bytes]
    """sha256 of the shape and values of each example as stored."""
    brought: list[SplitName | None]
    """The split that the file itself puts an example in; `None` where it has no splits at all."""
    labels: Labels
    shapes: Array
    """int32 `(n, rank)`."""
    dtype: str
    value_range: tuple[float, float]
    inputs: list[ArrayInput] = field(default_factory=list)
    """For models with several; `shapes`, `dtype` and `value_range` are then those of the first."""
    corrupt: list[CorruptExample] = field(default_factory=list)
    corrupt_count: int = 0
    warnings: list[str] = field(default_factory=list)


def examples_file(folder: Path, index: int = 0) -> Path:
    """Where the examples for the input with this number are stored."""
    return folder / ("examples.npy" if index == 0 else f"examples_{index}.npy")


class ExampleWriter:
    """Appends examples to one flat `.npy` file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: str, *, max_bytes: int) -> None:
        self.dtype = np.dtype(dtype)
        self.max_bytes = max_bytes
        self.values = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, values: Array) -> None:
        """Append the values of one or more examples, in C order and of the writer's dtype."""
        assert values.dtype == self.dtype
        self.values += values.size
        self._file.write(np.ascontiguousarray(values).data.cast("B"))

    def fits(self, values: int) -> bool:
        """Whether so many values more stay within the limit."""
        return (self.values + values) * self.dtype.itemsize <= self.max_bytes

    def close(self) -> None:
        """Write the final length into the header."""
        try:
            self._file.seek(0)
            self._write_header()
        finally:
            self._file.close()

    def _write_header(self) -> None:
        # numpy pads this header so that the first axis may grow to 21 digits in place.
        description = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._file, description | {"shape": (self.values,)})


def digest_example(values: Array) -> bytes:
    """sha256 over shape, dtype and values of one example."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data.cast("B"))
    return digest.digest()
