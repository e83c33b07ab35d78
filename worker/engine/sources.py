"""Sources: canonical models in folders.

upload --register--> canonical folder --load--> Source
model in memory --write_canonical--> canonical folder
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from app.domain.model import ModelFormat, SourceInfo
from app.domain.spec import Rescale
from worker.engine import canonical
from worker.engine.canonical import Source
from worker.engine.surgery import layer_table

__all__ = ["Source", "digest", "load", "write_canonical"]


def load(folder: Path) -> Source:
    """Open a canonical model folder. Raises `SourceError` if its files are not what was written."""
    config, weights, info = canonical.read(folder)
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
    model_format: ModelFormat = "keras",
    keras_version: str | None = None,
    upgrades: Sequence[str] = (),
) -> SourceInfo:
    """Write a built model with one input and one output as a canonical folder, all of it or nothing.

    `keras_version`: of the file that the model was read from; `None`: the Keras that runs here.
    A folder that is there already is replaced.
    """
    config, weights = canonical.config_of(model), canonical.weights_of(model)
    info = SourceInfo(
        format=model_format,
        keras_version=keras_version or keras.__version__,
        class_name=config["class_name"],
        name=model.name,
        input_shape=list(model.inputs[0].shape),
        input_dtype=keras.backend.standardize_dtype(model.inputs[0].dtype),
        output_shape=list(model.outputs[0].shape),
        parameters=model.count_params(),
        layers=layer_table(model),
        rescale=rescale,
        labels=list(labels) if labels is not None else None,
        upgrades=list(upgrades),
        digest=canonical.digest_of(config, weights),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        canonical.write(scratch, config, weights, info)
        publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return info


def publish(scratch: Path, folder: Path) -> None:
    """Give a complete folder its final name, its bytes synced first; what had that name goes."""
    for path in (*scratch.iterdir(), scratch):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if folder.exists():
        shutil.rmtree(folder)
    scratch.rename(folder)
