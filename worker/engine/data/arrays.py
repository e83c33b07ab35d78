"""Arrays: npz files with x and y, or x_train, y_train, x_test, …, read in pieces and never unpickled.

An npz file is a zip of npy files. Two passes: the headers of all arrays, which are checked against the bytes that
are really there before anything is allocated; then the values, some megabytes at a time, straight to disk.
Stored types: float64 and float16 become float32, bool becomes uint8, integers stay as they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from app.domain.dataset import DatasetOptions, SplitName
from app.domain.errors import DataError
from worker.engine.data.archives import DamagedMemberError, Member, read_members
from worker.engine.data.found import Array, ExampleWriter, Found, digest_example
from worker.engine.data.labels import read_labels
from worker.engine.data.layout import SPLIT_FOLDERS
from worker.engine.data.npy import ROLE, Header, read_header

CHUNK_BYTES = 16 * 2**20
MAX_EXAMPLE_BYTES = 512 * 2**20


@dataclass
class _Block:
    """The examples of one x array."""

    name: str
    contents: list[bytes]
    value_range: tuple[float, float]
    not_finite: int = 0
    first_not_finite: int = 0


class RowNames(Sequence[str]):
    """Names of examples such as `x_train[12]`, made when asked for."""

    def __init__(self, arrays: Sequence[tuple[str, int]]) -> None:
        self._arrays = list(arrays)

    def __len__(self) -> int:
        return sum(count for _, count in self._arrays)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        for name, count in self._arrays:
            if index < count:
                return f"{name}[{index}]"
            index -= count
        raise IndexError(index)


def looks_like_npz(path: Path, *, max_unpacked_bytes: int) -> bool:
    """Whether a zip file holds npy members on top and nothing else."""
    members = read_members(path, max_unpacked_bytes=max_unpacked_bytes, max_ratio=None)
    names = (member.name for member in members if not member.ignored)
    first = next(names, "")
    return _is_npy(first) and all(map(_is_npy, names))


def _is_npy(name: str) -> bool:
    return name.endswith(".npy") and "/" not in name


def read_arrays(path: Path, examples: Path, *, options: DatasetOptions, max_unpacked_bytes: int) -> Found:
    """Write every example to the file `examples`; DataError if the arrays cannot be used."""
    members = read_members(path, max_unpacked_bytes=max_unpacked_bytes, max_ratio=None)
    headers = [read_header(member) for member in members if not member.ignored]
    roles = _roles(headers)
    used = [header for header in headers if header.name in roles]
    writer = ExampleWriter(examples, _stored_dtype(used), max_bytes=max_unpacked_bytes)
    try:
        blocks, labels = _read_values(path, used, writer, examples.with_suffix(".spool"), max_unpacked_bytes)
    finally:
        writer.close()
    ordered = [(block, roles[block.name]) for block in blocks]
    y = _join_labels(used, [labels[_partner(block.name)] for block in blocks])
    shape = _example_shape(used)
    contents = [content for block in blocks for content in block.contents]
    ignored = sorted({header.name for header in headers} - set(roles))
    return Found(
        kind="arrays",
        names=RowNames([(block.name, len(block.contents)) for block in blocks]),
        contents=contents,
        stored=contents,
        brought=[split for block, split in ordered for _ in block.contents],
        labels=read_labels(y, options),
        shapes=np.broadcast_to(np.array(shape, np.int32), (len(contents), len(shape))),
        dtype=writer.dtype.name,
        value_range=(min(block.value_range[0] for block in blocks), max(block.value_range[1] for block in blocks)),
        warnings=[f"Arrays other than x and y were left out: {', '.join(ignored)}."] if ignored else [],
    )


# === Which array is what ===


def _roles(headers: Sequence[Header]) -> dict[str, SplitName | None]:
    """The split of every x and y array by its name; `None` where the file has no splits."""
    names = [header.name for header in headers]
    xs = [name for name in names if (match := ROLE.match(name)) and match[1] == "x"]
    if not xs:
        message = f"Expected arrays named x and y, or x_train and y_train; the file holds: {', '.join(names[:20])}."
        raise DataError(message)
    roles: dict[str, SplitName | None] = {}
    for name in xs:
        if _partner(name) not in names:
            message = f"The array '{name}' has no labels: expected an array '{_partner(name)}' beside it."
            raise DataError(message)
        roles[name] = roles[_partner(name)] = _split(name, alone=len(xs) == 1)
    _check_splits([roles[name] for name in xs], xs)
    return roles


def _split(name: str, *, alone: bool) -> SplitName | None:
    if len(name) > 1:
        return SPLIT_FOLDERS[name[2:]]
    return None if alone else "train"


def _partner(name: str) -> str:
    return "y" + name[1:]


def _check_splits(splits: Sequence[SplitName | None], names: Sequence[str]) -> None:
    if len(set(splits)) < len(splits):
        message = f"Several arrays claim the same split: {', '.join(names)}. Keep one for each split."
        raise DataError(message)
    if not {"train", None} & set(splits):
        message = f"There is nothing to learn from: expected x_train or x beside {', '.join(names)}."
        raise DataError(message)


def _stored_dtype(headers: Sequence[Header]) -> str:
    found = {header.name: _stored_as(header) for header in headers if header.name[0] == "x"}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{header.name}: {header.dtype}" for header in headers if header.name in found)
        message = f"The arrays of all splits must have the same type, or they mean different things; received {listed}."
        raise DataError(message)
    return next(iter(found.values()))


def _stored_as(header: Header) -> str:
    if header.dtype.kind == "f":
        return "float32"
    if header.dtype.kind == "b":
        return "uint8"
    if header.dtype.kind in "iu":
        return header.dtype.newbyteorder("=").name
    message = f"The array '{header.name}' has the type {header.dtype}; expected numbers (floats, integers or bools)."
    raise DataError(message)


def _example_shape(headers: Sequence[Header]) -> tuple[int, ...]:
    shapes = {header.name: header.shape[1:] for header in headers if header.name[0] == "x"}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        message = f"The examples of all splits must have the same shape; received {listed}."
        raise DataError(message)
    return next(iter(shapes.values())) or (1,)


# === Values ===


def _read_values(
    path: Path, headers: Sequence[Header], writer: ExampleWriter, spool: Path, max_unpacked_bytes: int
) -> tuple[list[_Block], dict[str, Array]]:
    _check_lengths(headers)
    used = {header.name for header in headers}
    blocks: list[_Block] = []
    labels: dict[str, Array] = {}
    for member in read_members(path, max_unpacked_bytes=max_unpacked_bytes, max_ratio=None):
        if member.ignored or (header := read_header(member)).name not in used:
            continue
        try:
            if header.name[0] == "y":
                labels[header.name] = _whole(member, header)
            else:
                blocks.append(_write_rows(header, _row_chunks(member, header, spool), writer))
        except DamagedMemberError as error:
            message = f"The array '{header.name}' is damaged: {error}. Save or upload it again."
            raise DataError(message) from error
    return blocks, labels


def _check_lengths(headers: Sequence[Header]) -> None:
    by_name = {header.name: header for header in headers}
    for header in headers:
        if not header.shape or 0 in header.shape:
            message = f"The array '{header.name}' is empty: its shape is {header.shape}."
            raise DataError(message)
        if header.row_bytes > MAX_EXAMPLE_BYTES:
            message = f"One example of '{header.name}' takes {header.row_bytes:,} bytes; at most {MAX_EXAMPLE_BYTES:,}."
            raise DataError(message)
        if header.name[0] == "x" and header.shape[0] != by_name[_partner(header.name)].shape[0]:
            partner = by_name[_partner(header.name)]
            message = (
                f"'{header.name}' has {header.shape[0]} examples and '{partner.name}' {partner.shape[0]} labels; "
                "there must be one label for each example."
            )
            raise DataError(message)


def _whole(member: Member, header: Header) -> Array:
    values = np.frombuffer(member.read(), header.dtype)
    return values.reshape(header.shape, order="F" if header.fortran_order else "C")


def _row_chunks(member: Member, header: Header, spool: Path) -> Iterator[Array]:
    rows = max(1, CHUNK_BYTES // header.row_bytes)
    if header.fortran_order and len(header.shape) > 1:
        yield from _spooled_chunks(member, header, spool, rows)
        return
    for start in range(0, header.shape[0], rows):
        count = min(rows, header.shape[0] - start)
        values = np.frombuffer(member.read(count * header.row_bytes), header.dtype)
        yield values.reshape(count, *header.shape[1:])


def _spooled_chunks(member: Member, header: Header, spool: Path, rows: int) -> Iterator[Array]:
    """Examples of an array that lies on disk column by column."""
    try:
        with spool.open("wb") as file:
            while piece := member.read(CHUNK_BYTES):
                file.write(piece)
        columns = np.memmap(spool, header.dtype, "r", shape=header.shape, order="F")
        for start in range(0, header.shape[0], rows):
            yield np.ascontiguousarray(columns[start : start + rows])
    finally:
        spool.unlink(missing_ok=True)


def _write_rows(header: Header, chunks: Iterator[Array], writer: ExampleWriter) -> _Block:
    block = _Block(header.name, [], (math.inf, -math.inf))
    for chunk in chunks:
        rows = _as_stored(chunk, writer.dtype)
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            block.first_not_finite = (
                block.first_not_finite if block.not_finite else len(block.contents) + int(finite.argmin())
            )
            block.not_finite += int((~finite).sum())
        writer.append(rows)
        block.contents += [digest_example(row) for row in rows]
        low, high = block.value_range
        block.value_range = (min(low, float(rows.min())), max(high, float(rows.max())))
    if block.not_finite:
        message = (
            f"{block.not_finite} examples of '{header.name}' hold NaN or values too large for float32, the first at "
            f"index {block.first_not_finite}. Remove or fill them."
        )
        raise DataError(message)
    return block


def _as_stored(chunk: Array, dtype: np.dtype[np.generic]) -> Array:
    with np.errstate(over="ignore"):  # what becomes infinite is refused by the caller
        rows = chunk.astype(dtype)
    return rows if rows.ndim > 1 else rows[:, None]


def _join_labels(headers: Sequence[Header], labels: Sequence[Array]) -> Array:
    ys = [header for header in headers if header.name[0] == "y"]
    kinds = {"text" if header.dtype.kind in "US" else "numbers" for header in ys}
    trailing = {header.shape[1:] for header in ys}
    if len(kinds) > 1 or len(trailing) > 1:
        listed = ", ".join(f"{header.name}: {header.dtype} of shape {header.shape}" for header in ys)
        message = f"The labels of all splits must be of one kind; received {listed}."
        raise DataError(message)
    return np.concatenate(list(labels))
