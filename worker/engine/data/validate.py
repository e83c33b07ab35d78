"""Validation: from an uploaded file to a canonical dataset folder, or a DataError that says what is wrong.

    examples = read the file once, check every one, write its values        (images, arrays, tables, texts)
    labels   = what the folders or numbers mean                             (layout, labels)
    splits   = the file's own, and what is missing by hash                  (splits)
    tables   = their encoding, fitted on the training split, and only then the vectors      (encoding)
    folder   = values, labels, splits, dataset.json; synced, then renamed   (stored)

Runs in a process of its own: images and archives of strangers are decoded here and nowhere else.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.dataset import DatasetInfo, DatasetKind, DatasetOptions, PreviewExample
from app.domain.errors import DataError, PlatformError
from worker.engine.data.archives import sniff
from worker.engine.data.arrays import looks_like_npz, read_arrays
from worker.engine.data.delimited import looks_like_text, read_csv
from worker.engine.data.found import ExampleWriter, Found, Indices, save_array
from worker.engine.data.images import read_images
from worker.engine.data.parquet import looks_like_parquet, read_parquet
from worker.engine.data.preview import preview
from worker.engine.data.sheet import Sheet
from worker.engine.data.splits import split_up
from worker.engine.data.stored import open_dataset
from worker.engine.data.summary import summarize
from worker.engine.data.tables import read_table, write_table
from worker.engine.data.texts import looks_like_texts, read_texts
from worker.engine.durable import NO_ROOM

_HOLDS: dict[DatasetKind, str] = {"images": "images", "arrays": "arrays", "table": "a table", "text": "texts"}
_MEANT_FOR: dict[str, tuple[DatasetKind, ...]] = {
    "target": ("table", "text"),
    "text": ("text",),
    "columns": ("table",),
    "drop": ("table",),
    "categorical": ("table",),
}
"""Which options are for some kinds only."""


def validate(
    path: Path, destination: Path, *, options: DatasetOptions, max_unpacked_bytes: int
) -> tuple[DatasetInfo, list[PreviewExample]]:
    """Check an upload and write it to the folder `destination`, which must not exist, or be empty.

    `max_unpacked_bytes` limits both what the archive unpacks to and what is stored. Raises DataError for anything
    wrong with the file, and PlatformError with code `storage_full` where there is no room; nothing is left behind.
    """
    with _new_folder(destination) as folder:
        found, indices = _read(path, folder, options, max_unpacked_bytes)
        info = summarize(found, indices)
        _write(folder, found, indices, info)
    return info, preview(open_dataset(destination))


def _read(path: Path, folder: Path, options: DatasetOptions, max_unpacked_bytes: int) -> tuple[Found, Indices]:
    if _is_sheet(path):
        return _read_sheet(path, folder, options, max_unpacked_bytes)
    kind = _kind_of_archive(path, max_unpacked_bytes)
    _check_options(kind, options)
    read = read_arrays if kind == "arrays" else read_images
    found = read(path, folder / "examples.npy", options=options, max_unpacked_bytes=max_unpacked_bytes)
    return found, split_up(found, options)


def _read_sheet(path: Path, folder: Path, options: DatasetOptions, max_unpacked_bytes: int) -> tuple[Found, Indices]:
    """What is done to a table's columns depends on which rows are for training, so the split comes first."""
    read = read_parquet if looks_like_parquet(path) else read_csv
    sheet = read(path, max_bytes=max_unpacked_bytes)
    if looks_like_texts(sheet, options):
        _check_options("text", options)
        found = _read_texts(sheet, folder, options, max_unpacked_bytes)
        return found, split_up(found, options)
    _check_options("table", options)
    found, rows = read_table(sheet, options)
    indices = split_up(found, options)
    return write_table(found, rows, indices, folder, max_bytes=max_unpacked_bytes), indices


def _read_texts(sheet: Sheet, folder: Path, options: DatasetOptions, max_unpacked_bytes: int) -> Found:
    writer = ExampleWriter(folder / "examples.npy", "uint8", max_bytes=max_unpacked_bytes)
    try:
        return read_texts(sheet, options, writer)
    finally:
        writer.close()


def _is_sheet(path: Path) -> bool:
    return looks_like_parquet(path) or looks_like_text(path)


def _kind_of_archive(path: Path, max_unpacked_bytes: int) -> DatasetKind:
    is_npz = sniff(path) == "zip" and looks_like_npz(path, max_unpacked_bytes=max_unpacked_bytes)
    return "arrays" if is_npz else "images"


def _check_options(kind: DatasetKind, options: DatasetOptions) -> None:
    """DataError where options are for another kind of file."""
    if options.kind not in (None, kind):
        message = f"kind is '{options.kind}', but the file holds {_HOLDS[kind]}. Leave kind out to have it found out."
        raise DataError(message, param="kind")
    for name, kinds in _MEANT_FOR.items():
        if kind not in kinds and getattr(options, name) is not None:
            message = f"{name} is for {kinds[0]}s; the file holds {_HOLDS[kind]}. Leave {name} out."
            raise DataError(message, param=name)


def _write(folder: Path, found: Found, indices: Indices, info: DatasetInfo) -> None:
    if found.kind == "text" or (found.shapes != found.shapes[0]).any():
        save_array(folder / "shapes.npy", found.shapes)
    save_array(folder / "labels.npy", found.labels.values)
    for split, chosen in indices.items():
        save_array(folder / f"{split}.npy", chosen)
    (folder / "dataset.json").write_text(info.model_dump_json(indent=2), encoding="utf-8")


@contextmanager
def _new_folder(destination: Path) -> Iterator[Path]:
    """A folder that appears at `destination` complete and synced, or not at all."""
    folder = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
        for path in (*folder.iterdir(), folder):
            _sync(path)
        folder.replace(destination)
        _sync(destination.parent)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        message = f"There is no room left to store the dataset: {error}. Free some space on the worker and try again."
        raise PlatformError(message, code="storage_full") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
