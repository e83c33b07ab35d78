"""Validation: from an uploaded file to a canonical dataset folder, or a DataError that says what is wrong.

    examples = read the file once, check every one, write its values        (images.py, arrays.py)
    labels   = what the folders or numbers mean                             (layout.py, labels.py)
    splits   = the file's own, and what is missing by hash                  (splits.py)
    folder   = values, labels, splits, dataset.json; synced, then renamed   (stored.py)

Runs in a process of its own: images and archives of strangers are decoded here and nowhere else.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from app.domain.dataset import DatasetInfo, DatasetKind, DatasetOptions, PreviewExample
from app.domain.errors import DataError, PlatformError
from worker.engine.data.archives import sniff
from worker.engine.data.arrays import looks_like_npz, read_arrays
from worker.engine.data.found import Array, Found, Indices
from worker.engine.data.images import read_images
from worker.engine.data.preview import preview
from worker.engine.data.splits import split_up
from worker.engine.data.stored import open_dataset
from worker.engine.data.summary import summarize
from worker.engine.durable import NO_ROOM


def validate(
    path: Path, destination: Path, *, options: DatasetOptions, max_unpacked_bytes: int
) -> tuple[DatasetInfo, list[PreviewExample]]:
    """Check an upload and write it to the folder `destination`, which must not exist, or be empty.

    `max_unpacked_bytes` limits both what the archive unpacks to and what is stored. Raises DataError for anything
    wrong with the file, and PlatformError with code `storage_full` where there is no room; nothing is left behind.
    """
    with _new_folder(destination) as folder:
        found = _read(path, folder, options, max_unpacked_bytes)
        indices = split_up(found, options)
        info = summarize(found, indices)
        _write(folder, found, indices, info)
    return info, preview(open_dataset(destination))


def _read(path: Path, folder: Path, options: DatasetOptions, max_unpacked_bytes: int) -> Found:
    read = read_arrays if _kind(path, options, max_unpacked_bytes) == "arrays" else read_images
    return read(path, folder / "examples.npy", options=options, max_unpacked_bytes=max_unpacked_bytes)


def _kind(path: Path, options: DatasetOptions, max_unpacked_bytes: int) -> DatasetKind:
    is_npz = sniff(path) == "zip" and looks_like_npz(path, max_unpacked_bytes=max_unpacked_bytes)
    kind: DatasetKind = "arrays" if is_npz else "images"
    if options.kind not in (None, kind):
        message = f"kind is '{options.kind}', but the file holds {kind}. Leave kind out to have it found out."
        raise DataError(message, param="kind")
    return kind


def _write(folder: Path, found: Found, indices: Indices, info: DatasetInfo) -> None:
    if (found.shapes != found.shapes[0]).any():
        _save(folder / "shapes.npy", found.shapes)
    _save(folder / "labels.npy", found.labels.values)
    for split, chosen in indices.items():
        _save(folder / f"{split}.npy", chosen)
    (folder / "dataset.json").write_text(info.model_dump_json(indent=2), encoding="utf-8")


def _save(path: Path, values: Array) -> None:
    """Like `numpy.save`, which on a full disk raises an OSError that does not say so."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())


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
