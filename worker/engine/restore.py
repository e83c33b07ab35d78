"""A checkpoint of a job as a model: what the job would have given back, had it ended with that phase.

    source + spec + task ──cut, attach──▶ untrained model ◀──weights of the checkpoint
                                              └─▶ with preprocessing in front ──▶ canonical folder

The weights are safetensors, arrays and nothing else; every one must fit by name and shape.
"""

from pathlib import Path

import keras
from safetensors import SafetensorError
from safetensors.numpy import load_file

from app.domain.dataset import DatasetInfo
from app.domain.errors import PlatformError
from app.domain.model import ModelOptions, SourceInfo
from app.domain.spec import ResolvedSpec
from worker.engine import canonical, export, sources, surgery
from worker.engine.data import Preprocess
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
    loaded = sources.load(source)
    model = untrained(spec, loaded, data)
    try:
        arrays = load_file(weights)
    except SafetensorError as error:
        message = f"The weights of checkpoint '{origin}' cannot be read: {error}. Name another checkpoint of the job."
        raise PlatformError(message, code="checkpoint_damaged") from error
    canonical.assign_weights(model, arrays)
    complete = export.exported(model, Preprocess.resolve(spec.preprocessing, loaded.info, data))
    known = ModelOptions(rescale="none", labels=options.labels or _labels(data))
    return sources.admit(complete, destination, options=known, model_format="checkpoint", origin=origin)


def untrained(spec: ResolvedSpec, origin: Source, data: DatasetInfo) -> keras.Model:
    """The model that a job trains, built as `train` builds it."""
    backbone = surgery.cut_at(origin, spec.cut, seed=spec.seed, weights=spec.backbone_weights)
    outputs = len(data.classes or ()) if data.task == "single_label" else data.targets
    return surgery.attach_head(backbone, spec.head, task=data.task, outputs=outputs, seed=spec.seed)


def _labels(data: DatasetInfo) -> list[str] | None:
    """Names of the outputs, where each class has one of its own."""
    return data.classes if data.task == "single_label" else None
