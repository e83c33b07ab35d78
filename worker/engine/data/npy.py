"""The headers of npy files, checked against the bytes that are really there before anything is allocated.

numpy's own reading of them evaluates literals only; object arrays, which need pickle, are refused by name.
"""

import io
import math
import re
from dataclasses import dataclass

import numpy as np

from app.domain.errors import DataError
from worker.engine.data.archives import DamagedMemberError, Member
from worker.engine.data.layout import SPLIT_FOLDERS

MAX_HEADER_BYTES = 10_000

INPUT_MARK = "__"
"""Stands before the name of an input, in arrays for models with several: `x__left`, `x_train__left`."""
ROLE = re.compile(rf"(?i)^(?:([xy])(?:_({'|'.join(SPLIT_FOLDERS)}))?|x(?:_(?:{'|'.join(SPLIT_FOLDERS)}))?__.+)$")
"""Names of examples and labels, with their split and their input."""


@dataclass(frozen=True)
class Header:
    """What an npy member says about its array."""

    name: str
    """Without `.npy`; x and y in lower case, as in `x_train`, but the names of inputs as they are."""
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one example."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def read_header(member: Member) -> Header:
    """Read and check an npy header; leaves the member's stream at the first value."""
    name = member.parts[-1].removesuffix(".npy")
    try:
        start = _header_bytes(member)
        version = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(start)
    except (ValueError, DamagedMemberError) as error:
        message = f"The array '{name}' has no npy header that can be read: {error}. Save it anew with numpy.savez."
        raise DataError(message) from error
    header = Header(_canonical(name), shape, dtype, fortran_order)
    _check_header(header, member.size - start.tell())
    return header


def _canonical(name: str) -> str:
    role, mark, model_input = name.partition(INPUT_MARK)
    return f"{role.lower()}{mark}{model_input}" if ROLE.match(name) else name


def _header_bytes(member: Member) -> io.BytesIO:
    start = member.read(8)
    if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
        message = "it does not start like an npy file of version 1 or 2"
        raise ValueError(message)
    width = 2 if start[6] == 1 else 4
    length = member.read(width)
    count = int.from_bytes(length, "little")
    if count > MAX_HEADER_BYTES:
        message = f"it is {count:,} bytes long"
        raise ValueError(message)
    return io.BytesIO(start + length + member.read(count))


def _check_header(header: Header, value_bytes: int) -> None:
    if header.dtype.hasobject:
        message = (
            f"The array '{header.name}' holds Python objects (pickled), which Thaw never loads. "
            "Save it with a number type: numpy.asarray(values, dtype='float32')."
        )
        raise DataError(message)
    declared = math.prod(header.shape) * header.dtype.itemsize
    if declared != value_bytes:
        message = (
            f"The array '{header.name}' says it has the shape {header.shape} of {header.dtype}, {declared:,} bytes, "
            f"but the file holds {value_bytes:,} for it."
        )
        raise DataError(message)
