"""A checkpoint of a job as a model: what the job would have given back, had it ended with that phase.

    source + spec + task ──cut, attach──▶ untrained model ◀──weights of the checkpoint
                                              └─▶ with preprocessing in front ──▶ canonical folder

The weights are safetensors, arrays and nothing else; every one must fit by name and shape.
"""

from pathlib import Path

import keras
from safetensors import SafetensorError
from safetensors.numpy import load_file

from app.domain import kept
from app.domain.dataset import DatasetInfo
from app.domain.errors import PlatformError
from app.domain.inputs import used_inputs
from app.domain.model import ModelOptions, SourceInfo
from app.domain.spec import ResolvedSpec
from worker.engine import assembly, canonical, sources
from worker.engine.data import resolve_preprocess
from worker.engine.export.keras_file import exported
from worker.engine.sources import Source


def restore(
    weights: Path,
    destination: Path,
    *,
    spec: ResolvedSpec,
    source: Path,
    data: DatasetInfo,
    origin: str,
    options: ModelOptions,
) -> SourceInfo:
    """Write the model of a checkpoint as a canonical folder, all of it or nothing.

    `source`: canonical folder of what the job started from; `origin`: the checkpoint's id. Raises `SourceError` if the
    weights are not those of this job, `PlatformError` if the file is damaged.
    """
    try:
        arrays = load_file(weights)
    except SafetensorError as error:
        message = f"The weights of checkpoint '{origin}' cannot be read: {error}. Name another checkpoint of the job."
        raise PlatformError(message, code="checkpoint_damaged") from error
    complete = _complete(spec, sources.load(source), data, arrays)
    known = ModelOptions(rescale="none", labels=options.labels or _labels(data))
    return sources.admit(complete, destination, options=known, model_format="checkpoint", origin=origin)


def _complete(spec: ResolvedSpec, origin: Source, data: DatasetInfo, arrays: canonical.Weights) -> keras.Model:
    """The model as `train` builds, finishes and exports it, with these weights in place of trained ones."""
    network = assembly.network(spec, origin, data)
    canonical.assign_weights(network.model, arrays)
    used = used_inputs(kept.backbone(origin.info.layers, spec))
    preprocess = resolve_preprocess(spec.preprocessing, origin.info, data, used=used)
    return exported(assembly.finished(network, spec).model, preprocess)


def _labels(data: DatasetInfo) -> list[str] | None:
    """Names of the outputs, where each class has one of its own."""
    return data.classes if data.task in ("single_label", "multi_label") else None
