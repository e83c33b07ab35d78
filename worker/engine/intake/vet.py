"""What an uploaded file is, and whether it may be opened at all. Without Keras.

    bytes ──▶ what is it? ──▶ container checks (zip, HDF5) ──▶ JSON checks ──▶ allow-list ──▶ Vetted

The name of the file plays no part: only its content does.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from app.domain.model import ModelFormat
from worker.engine.intake import layouts, signatures, tensorflow_ops, upgrades, vet_zip, vocabularies
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_config import check_model
from worker.engine.intake.vet_hdf5 import check_hdf5
from worker.engine.intake.vet_json import parse_json


@dataclass(frozen=True)
class Vetted:
    """A model file that passed. Keras gets `config` and `weights`, never the file itself."""

    format: ModelFormat
    keras_version: str | None
    """As the file says."""
    config: dict[str, Any]
    """Upgraded, in today's spelling, and on the allow-list."""
    weights: Path
    """An HDF5 file: `model.weights.h5` out of the archive, or the file itself."""
    upgrades: list[str]


def vet(path: Path, scratch: Path) -> Vetted:
    """Check a model file; `scratch` is an existing folder for what is unpacked.

    Raises `SourceError` with one of the codes of `refusals.Code` if it is no model that Thaw opens.
    """
    container = signatures.container_of(path)
    return _vet_archive(path, scratch) if container == "zip" else _vet_hdf5(path)


def _vet_archive(path: Path, scratch: Path) -> Vetted:
    weights = scratch / "upload.weights.h5"
    try:
        with zipfile.ZipFile(path) as archive:
            signatures.check_archive(archive.namelist())
            vet_zip.check_members(archive)
            config = parse_json(archive.read(vet_zip.CONFIG), name=vet_zip.CONFIG)
            metadata = parse_json(archive.read(vet_zip.METADATA), name=vet_zip.METADATA)
            words = vocabularies.read(archive)
            vet_zip.extract_weights(archive, weights)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        refuse("corrupt_file", f"The archive is damaged: {error}. Save the model again.")
    check_hdf5(weights)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return _with_new_layout(_vetted("keras", config, version, weights, words), scratch)


def _with_new_layout(vetted: Vetted, scratch: Path) -> Vetted:
    if not layouts.is_old(vetted.weights):
        return vetted
    rewritten = scratch / "rewritten.weights.h5"
    layouts.rewrite(vetted.weights, vetted.config, rewritten)
    return replace(vetted, weights=rewritten, upgrades=[*vetted.upgrades, layouts.SENTENCE])


def _vet_hdf5(path: Path) -> Vetted:
    check_hdf5(path)
    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
        if config is None:
            signatures.refuse_without_model(file)
    text = config.encode() if isinstance(config, str) else bytes(config)
    version = version.decode(errors="replace") if isinstance(version, bytes) else version
    return _vetted("h5", parse_json(text, name="model_config"), version, path, {})


def _vetted(
    form: ModelFormat,
    config: Any,  # noqa: ANN401 (JSON)
    version: Any,  # noqa: ANN401 (JSON)
    weights: Path,
    words: Mapping[str, list[str]],
) -> Vetted:
    config, operations = tensorflow_ops.translated(config)
    check_model(config, strict=False)
    version = version[:40] if isinstance(version, str) else None
    upgraded, sentences = upgrades.upgrade(config, keras_version=version)
    upgraded = vocabularies.filled(upgraded, words)
    check_model(upgraded, strict=True)
    return Vetted(
        format=form,
        keras_version=version,
        config=upgraded,
        weights=weights,
        upgrades=[*sentences, *([tensorflow_ops.sentence(operations)] if operations else [])],
    )
