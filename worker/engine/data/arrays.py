"""Arrays: npz files with x and y, or x_train, y_train, x_test, …, read in pieces and never unpickled.

For models with several inputs there is one x for each, named after the input: x__left, x__right and y, or
x_train__left, x_train__right and y_train. Two underscores, so that no input's name is taken for a split.

An npz file is a zip of npy files. Two passes: the headers of all arrays, which are checked against the bytes that
are really there before anything is allocated; then the values, some megabytes at a time, straight to disk.
Stored types: float64 and float16 become float32, bool becomes uint8, integers stay as they are.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from app.domain.dataset import ArrayInput, DatasetOptions, SplitName
from app.domain.errors import DataError
from worker.engine.data import array_roles
from worker.engine.data.archives import DamagedMemberError, Member, read_members
from worker.engine.data.found import Array, ExampleWriter, Found, Labels, digest_example, examples_file
from worker.engine.data.labels import read_labels
from worker.engine.data.npy import INPUT_MARK, Header, read_header

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
    """Write every example to the file `examples`, or to one file for each input; DataError if they cannot be used."""
    members = read_members(path, max_unpacked_bytes=max_unpacked_bytes, max_ratio=None)
    headers = [read_header(member) for member in members if not member.ignored]
    roles = array_roles.splits(headers)
    used = [header for header in headers if header.name in roles]
    inputs = array_roles.inputs(used)
    writers = {
        each.name: ExampleWriter(examples_file(examples.parent, index), each.dtype, max_bytes=max_unpacked_bytes)
        for index, each in enumerate(inputs)
    }
    try:
        blocks, labels = _read_values(path, used, writers, examples.with_suffix(".spool"), max_unpacked_bytes)
    finally:
        for writer in writers.values():
            writer.close()
    return _found(headers, roles, inputs, blocks, read_labels(_join_labels(used, blocks, labels), options))


def _found(
    headers: Sequence[Header],
    roles: Mapping[str, SplitName | None],
    inputs: Sequence[ArrayInput],
    blocks: Sequence[_Block],
    labels: Labels,
) -> Found:
    by_input = [[block for block in blocks if array_roles.input_of(block.name) == each.name] for each in inputs]
    first = by_input[0]
    contents = _contents(by_input)
    ignored = sorted({header.name for header in headers} - set(roles))
    known = [each.model_copy(update={"value_range": _range(its)}) for each, its in zip(inputs, by_input, strict=True)]
    shape = known[0].example_shape
    return Found(
        kind="arrays",
        names=RowNames([(block.name.partition(INPUT_MARK)[0], len(block.contents)) for block in first]),
        contents=contents,
        stored=contents,
        brought=[roles[block.name] for block in first for _ in block.contents],
        labels=labels,
        shapes=np.broadcast_to(np.array(shape, np.int32), (len(contents), len(shape))),
        dtype=known[0].dtype,
        value_range=known[0].value_range,
        inputs=known if len(known) > 1 else [],
        warnings=[f"Arrays other than x and y were left out: {', '.join(ignored)}."] if ignored else [],
    )


def _contents(by_input: Sequence[Sequence[_Block]]) -> list[bytes]:
    """A digest of each example, over all of its inputs."""
    rows = zip(*([content for block in blocks for content in block.contents] for blocks in by_input), strict=True)
    return [row[0] if len(row) == 1 else hashlib.sha256(b"".join(row)).digest() for row in rows]


def _range(blocks: Sequence[_Block]) -> tuple[float, float]:
    return min(block.value_range[0] for block in blocks), max(block.value_range[1] for block in blocks)


# === Values ===


def _read_values(
    path: Path, headers: Sequence[Header], writers: Mapping[str, ExampleWriter], spool: Path, max_unpacked_bytes: int
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
                writer = writers[array_roles.input_of(header.name)]
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
        if header.name[0] == "x" and header.shape[0] != by_name[array_roles.partner(header.name)].shape[0]:
            partner = by_name[array_roles.partner(header.name)]
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


def _join_labels(headers: Sequence[Header], blocks: Sequence[_Block], labels: Mapping[str, Array]) -> Array:
    """In the order of the examples."""
    ys = [header for header in headers if header.name[0] == "y"]
    kinds = {"text" if header.dtype.kind in "US" else "numbers" for header in ys}
    trailing = {header.shape[1:] for header in ys}
    if len(kinds) > 1 or len(trailing) > 1:
        listed = ", ".join(f"{header.name}: {header.dtype} of shape {header.shape}" for header in ys)
        message = f"The labels of all splits must be of one kind; received {listed}."
        raise DataError(message)
    order = dict.fromkeys(array_roles.partner(block.name) for block in blocks)
    return np.concatenate([labels[name] for name in order])
