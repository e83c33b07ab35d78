"""Presets of KerasHub: loaded by KerasHub, with files from its own cache (`KAGGLEHUB_CACHE`), and made plain.

    name --keras_hub--> backbone --`opening`--> model of Keras' own layers --allow-list--> canonical folder

What a preset is made of is found out from its configuration alone, so that weights are fetched only of those that can
be opened. What is not in the cache is downloaded from Kaggle, in the process that registers the model; training
processes open the canonical folder and need neither KerasHub nor a network. Needs the extra `hub`.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from app.domain.errors import PlatformError, SourceError, UserError
from app.domain.kerashub import PREFIX, PresetName, parse
from app.domain.model import ModelOptions, SourceInfo
from app.domain.spec import Rescale
from worker.engine import canonical, extras, graph, opening, sources
from worker.engine.data.preprocess import SCALES
from worker.engine.intake import allowlist, uploads
from worker.engine.intake.vet_config import check_model

PICTURE_RANK = 4
"""Of a batch: `(batch, height, width, channels)`."""
SAME_SCALE = 1e-3
"""How far two ways to scale may be apart, for values that are about 1: presets have their numbers rounded."""
_KAGGLE = "kaggle://"
_CONFIG, _CONVERTER = "config.json", "image_converter.json"


def register(reference: str, destination: Path, *, options: ModelOptions, max_parameters: int) -> SourceInfo:
    """Load a preset's backbone, and write it as a canonical folder, all of it or nothing.

    Call it in a process of its own: random seeds are set, and Keras counts layers anew. Raises `UserError` for what
    there is not or what contradicts the preset, `SourceError` for a backbone that Thaw cannot open, and
    `PlatformError` with code `download_failed` or `extra_missing`.
    """
    name = parse(reference)
    hub = _library()
    handle, pinned = _handle(hub, name)
    with _downloads(name, handle):
        _check_there(pinned, handle)
        _check_structure(hub, name, handle, max_parameters=max_parameters)
        rescale = _agreed(name, _rescale(hub, handle), options.rescale)
        model = _loaded(hub, name, handle)
    known = options.model_copy(update={"rescale": rescale})
    return sources.admit(model, destination, options=known, model_format="preset", origin=str(pinned))


def _library() -> Any:  # noqa: ANN401 (see `extras.load`)
    return extras.load(
        "keras_hub",
        extra="hub",
        to="load presets of KerasHub",
        instead="take an application of Keras' own: thaw models catalogue",
    )


# === Which preset ===


def _handle(hub: Any, name: PresetName) -> tuple[str, PresetName]:  # noqa: ANN401 (`keras_hub`)
    """The preset's place on Kaggle, and the name with the version that it has there."""
    presets = hub.models.Backbone.presets
    if name.preset not in presets:
        near = difflib.get_close_matches(name.preset, presets, n=3)
        advice = f"Nearest: {', '.join(repr(PREFIX + each) for each in near)}. " if near else ""
        message = (
            f"KerasHub {hub.__version__} has no backbone preset '{name.preset}'. {advice}"
            "They are listed at https://keras.io/keras_hub/presets/."
        )
        raise UserError(message, code="unknown_preset", param="model")
    place: str = presets[name.preset]["kaggle_handle"]
    *path, last = place.removeprefix(_KAGGLE).split("/")
    if not last.isdecimal():
        path, last = [*path, last], ""
    version = str(name.version or last)
    pinned = name.model_copy(update={"version": int(version) if version else None})
    return _KAGGLE + "/".join([*path, version] if version else path), pinned


def _check_there(name: PresetName, handle: str) -> None:
    if not _has(handle, _CONFIG):
        message = (
            f"Kaggle gives nobody a {_CONFIG} of '{name}'. If the name has a version, leave it out; if one must ask "
            "for the preset there first, take another one."
        )
        raise UserError(message, code="not_found", param="model")


def _has(handle: str, file: str) -> bool:
    """Whether a preset has a file; it is fetched if it is not in the cache."""
    from keras_hub.src.utils.preset_utils import check_file_exists  # not exported

    there: bool = check_file_exists(handle, file)
    return there


# === Preprocessing ===


def _rescale(hub: Any, handle: str) -> Rescale | None:  # noqa: ANN401 (`keras_hub`)
    """How the preset's own converter scales 8-bit pictures, as Thaw calls it; `None`: in none of Thaw's ways."""
    base = hub.layers.ImageConverter
    if not _has(handle, _CONVERTER):
        return None
    converter = base.from_preset(handle)
    if type(converter).call is not base.call:
        return None  # it does more than to resize and scale
    return scaled_as(1.0 if converter.scale is None else converter.scale, converter.offset or 0.0)


def scaled_as(scale: float | list[float], offset: float | list[float]) -> Rescale | None:
    """What Thaw calls `x * scale + offset`, for x in [0, 255], channel by channel; `None`: it has no name for it."""
    ends = np.array([[0.0], [255.0]])
    received = ends * np.asarray(scale) + np.asarray(offset)
    for rescale, (known_scale, known_offset) in SCALES.items():
        # Of the names, this one also turns the channels round, which no converter does.
        if rescale == "imagenet_bgr_mean":
            continue
        expected = ends * np.asarray(known_scale) + np.asarray(known_offset)
        if np.allclose(received, expected, rtol=0, atol=SAME_SCALE):
            return rescale
    return None


def _agreed(name: PresetName, known: Rescale | None, said: Rescale | None) -> Rescale | None:
    if known is not None and said not in (None, known):
        message = (
            f"'{name}' wants its inputs as '{known}'; received rescale '{said}'. Leave rescale out; a job may still "
            "choose otherwise."
        )
        raise UserError(message, code="known_already", param="rescale")
    return known or said


# === What it is made of ===


def _check_structure(hub: Any, name: PresetName, handle: str, *, max_parameters: int) -> None:  # noqa: ANN401 (`keras_hub`)
    """Refuse what is too large or cannot be opened, from the configuration alone."""
    with uploads.without_memory(), keras.StatelessScope(initialize_variables=False):
        backbone = hub.models.Backbone.from_preset(handle, load_weights=False)
        uploads.check_size(_opened(backbone, name), max_parameters)


def _loaded(hub: Any, name: PresetName, handle: str) -> keras.Model:  # noqa: ANN401 (`keras_hub`)
    """The backbone with its weights, as a plain model that computes the same."""
    keras.backend.clear_session()  # Keras numbers layers without a name in the order of their making
    backbone = hub.models.Backbone.from_preset(handle)
    plain = _opened(backbone, name)
    lost = {id(weight) for weight in backbone.weights} ^ {id(weight) for weight in plain.weights}
    batch = uploads.example_batch(plain)
    try:
        expected, received = (keras.ops.convert_to_numpy(model(batch, training=False)) for model in (backbone, plain))
    except Exception as error:  # whatever an odd model raises on its first batch
        raise _refusal(name, f"it fails on pictures of {list(batch.shape[1:])}: {uploads.reason(error)}") from error
    if lost or not np.array_equal(expected, received, equal_nan=True):
        raise _refusal(name, "its layers, taken apart, do not compute what the backbone computes.")
    return plain


def _opened(backbone: keras.Model, name: PresetName) -> keras.Model:
    _check_ends(backbone, name)
    try:
        plain = opening.opened(backbone)
    except opening.ClosedError as error:
        raise _refusal(
            name, f"it has layers of KerasHub's own that Thaw cannot take apart: {', '.join(error.classes)}."
        ) from error
    if strange := sorted({type(operation).__name__ for operation in plain.operations if not _is_known(operation)}):
        raise _refusal(name, f"it has operations of Keras that are not on Thaw's list: {', '.join(strange)}.")
    try:
        check_model(canonical.config_of(plain), strict=True)
    except SourceError as error:
        raise _refusal(name, error.message) from error
    return plain


def _is_known(operation: graph.Operation) -> bool:
    if graph.is_model(operation):
        return True  # what is inside is looked at with the whole configuration
    kind: allowlist.Kind = "layer" if isinstance(operation, keras.Layer) else "operation"
    return allowlist.module_of(kind, type(operation).__name__, type(operation).__module__) is not None


def _check_ends(backbone: keras.Model, name: PresetName) -> None:
    """One picture goes in, one array comes out."""
    taken = [graph.maker_name(tensor) for tensor in backbone.inputs]
    if "token_ids" in taken:
        raise _refusal(
            name,
            "it works on token ids that KerasHub's tokenizer makes of texts, and Thaw has no such tokenizer. Texts go "
            "through a TextVectorization layer inside the model.",
        )
    if len(taken) > 1 or len(backbone.inputs[0].shape) != PICTURE_RANK:
        raise _refusal(
            name, f"it takes {', '.join(taken)}; Thaw opens backbones that take one picture and nothing else."
        )
    if len(backbone.outputs) != 1:
        raise _refusal(name, f"it has {len(backbone.outputs)} outputs; Thaw fine-tunes models with one.")


def _refusal(name: PresetName, reason: str) -> SourceError:
    message = (
        f"The preset '{name.preset}' cannot be a source: {reason} The presets of ResNet (not V2), DenseNet, VGG, "
        "Xception, EfficientNet and MobileNet can, as can all of the catalogue (thaw models catalogue)."
    )
    return SourceError(message, code="unsupported_preset")


# === Downloads ===


@contextmanager
def _downloads(name: PresetName, handle: str) -> Iterator[None]:
    """Say what to do where files of a preset cannot be had."""
    try:
        yield
    except Exception as error:  # Kaggle's client has a dozen kinds, and KerasHub makes plain ValueErrors of some
        if not _is_failed_download(error):
            raise
        from kagglehub.config import get_cache_folder

        place = Path(get_cache_folder()) / "models" / handle.removeprefix(_KAGGLE)
        message = (
            f"The files of '{name}' could not be had: {uploads.reason(error)} They are looked for in {place}, and what "
            "is not there is downloaded. Let the worker that registers models reach api.kaggle.com and "
            "storage.googleapis.com, or copy the cache of a machine that has them (KAGGLEHUB_CACHE says where it is); "
            "a file there that was cut off must be deleted. Then register the model again."
        )
        raise PlatformError(message, code="download_failed") from error


def _is_failed_download(error: Exception) -> bool:
    """No answer, a wrong one, one that was cut off; h5py raises OSError for half a file, too."""
    kaggles = (type(each).__module__.startswith("kagglehub") for each in (error, error.__context__))
    return isinstance(error, OSError) or any(kaggles)
