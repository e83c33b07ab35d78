"""Sources: canonical models in folders.

upload ------------register--> canonical folder --load--> Source
name of the catalogue --build--> model in memory --admit--> canonical folder
model in memory --write_canonical--> canonical folder
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import keras
import numpy as np

from app.domain.errors import PlatformError, SourceError
from app.domain.model import ModelFormat, ModelInput, ModelOptions, SourceInfo
from app.domain.spec import Rescale
from worker.engine import canonical, graph, probe
from worker.engine.canonical import Source
from worker.engine.intake import uploads
from worker.engine.intake.vet import vet
from worker.engine.intake.vet_config import check_model
from worker.engine.surgery import layer_table

__all__ = ["Source", "admit", "digest", "load", "register", "write_canonical"]


class Known(TypedDict, total=False):
    """What is known of a model beside itself."""

    model_format: ModelFormat
    """`keras` if left out."""
    keras_version: str | None
    """What wrote the file that it was read from; `None`: the file does not say. Left out: the one that runs."""
    upgrades: Sequence[str]
    origin: str | None


def register(
    path: Path, destination: Path, *, options: ModelOptions, max_parameters: int, origin: str | None = None
) -> SourceInfo:
    """Check an uploaded `.keras` or HDF5 model and write it as a canonical folder, all of it or nothing.

    Call it in a process of its own: the file is somebody else's. Raises `SourceError` that says what is wrong
    with the file and what to do; then nothing is at `destination`. What is returned, and not the folder, says how
    fast the model computes.
    """
    with _scratch_for(destination) as scratch:
        vetted = vet(path, scratch)
        return admit(
            uploads.open_model(vetted, scratch, max_parameters=max_parameters),
            destination,
            options=options,
            model_format=vetted.format,
            keras_version=vetted.keras_version,
            upgrades=vetted.upgrades,
            origin=origin,
        )


def admit(model: keras.Model, destination: Path, *, options: ModelOptions, **known: Unpack[Known]) -> SourceInfo:
    """Write a model as a canonical folder, and compare what the folder computes with what the model computes.

    Raises `SourceError`, and `PlatformError` with code `canonical_differs`; then nothing is at `destination`.
    """
    _check_labels(model, options)
    with _scratch_for(destination) as scratch:
        folder = scratch / "canonical"
        info = write_canonical(model, folder, rescale=options.rescale, labels=options.labels, **known)
        _check_same(model, load(folder))
        publish(folder, destination)
    return info.model_copy(update={"probe": probe.measure(model, info.layers)})


def load(folder: Path) -> Source:
    """Open a canonical model folder. Raises `SourceError` if its files are not what was written."""
    config, weights, info = canonical.read(folder)
    check_model(config, strict=True)
    return Source(model=canonical.build(config, weights), info=info)


def digest(model: keras.Model) -> str:
    """sha256 over the model's architecture and every weight: what `SourceInfo.digest` is."""
    return canonical.digest_of(canonical.config_of(model), canonical.weights_of(model))


def write_canonical(
    model: keras.Model,
    folder: Path,
    *,
    rescale: Rescale | None = None,
    labels: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    **known: Unpack[Known],
) -> SourceInfo:
    """Write a built model with one output as a canonical folder, all of it or nothing.

    A folder that is there already is replaced.
    """
    config, weights = canonical.config_of(model), canonical.weights_of(model)
    info = SourceInfo(
        format=known.get("model_format", "keras"),
        keras_version=known.get("keras_version", keras.__version__),
        class_name=config["class_name"],
        name=model.name,
        input_shape=list(model.inputs[0].shape),
        input_dtype=keras.backend.standardize_dtype(model.inputs[0].dtype),
        inputs=[_described(tensor) for tensor in model.inputs],
        output_shape=list(model.outputs[0].shape),
        parameters=model.count_params(),
        layers=layer_table(model),
        rescale=rescale,
        labels=list(labels) if labels is not None else None,
        features=list(features) if features is not None else None,
        upgrades=list(known.get("upgrades", ())),
        origin=known.get("origin"),
        digest=canonical.digest_of(config, weights),
    )
    with _scratch_for(folder) as scratch:
        complete = scratch / "complete"
        complete.mkdir()
        canonical.write(complete, config, weights, info)
        publish(complete, folder)
    return info


def _described(tensor: graph.Tensor) -> ModelInput:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ModelInput(name=graph.maker_name(tensor), shape=list(tensor.shape), dtype=dtype)


def publish(complete: Path, folder: Path) -> None:
    """Give a complete folder its final name, its bytes synced first; what had that name goes."""
    for path in (*complete.iterdir(), complete):
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    complete.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _scratch_for(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the final one, on the same file system, that is gone afterwards."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_labels(model: keras.Model, options: ModelOptions) -> None:
    outputs = model.outputs[0].shape[-1]
    if options.labels is not None and len(options.labels) != outputs:
        message = f"The model has {outputs} outputs, and {len(options.labels)} labels were given. Name each, in order."
        raise SourceError(message, code="wrong_labels", param="labels")


def _check_same(model: keras.Model, source: Source) -> None:
    """What was written must compute what the file computed, and be digested alike when it is loaded."""
    batch = uploads.example_batch(model)
    try:
        expected = keras.ops.convert_to_numpy(model(batch, training=False))
    except Exception as error:  # whatever an odd model raises on its first batch
        shapes = [tensor.shape for tensor in batch] if isinstance(batch, list) else batch.shape
        message = f"The model fails on a batch of shape {shapes}: {uploads.reason(error)}"
        raise SourceError(message, code="unsupported_model") from error
    _check_shape(model, expected)
    received = keras.ops.convert_to_numpy(source.model(batch, training=False))
    if not np.array_equal(expected, received, equal_nan=True) or digest(source.model) != source.info.digest:
        message = f"The canonical form of '{source.info.name}' does not compute what the file computes."
        raise PlatformError(message, code="canonical_differs")


def _check_shape(model: keras.Model, outputs: np.ndarray[Any, Any]) -> None:
    """TextVectorization drops an axis of 1 that its own account of shapes keeps (measured on Keras 3.15.1)."""
    said = model.outputs[0].shape
    if len(said) == outputs.ndim:
        return
    message = (
        f"The model says that its output has the shape {list(said)}, and gives {list(outputs.shape)}: no head fits. "
        "If it begins with TextVectorization, build it on keras.Input((), dtype='string') instead of (1,)."
    )
    raise SourceError(message, code="unsupported_model")
