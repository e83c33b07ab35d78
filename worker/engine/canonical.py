"""The canonical form of a model: the only one that training processes open.

    config.json          architecture: Keras' own config, without what Thaw has no use for
    weights.safetensors  arrays and nothing else, named `<path of the layer>/<number>.<name>`
    source.json          `SourceInfo`: layer table, shapes, digest

The digest covers architecture and weights. It can be computed from the files without Keras, and from a model in
memory, and both must agree: that is how a training process knows what it has loaded.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file, save_file

from app.domain.errors import SourceError
from app.domain.model import SourceInfo
from worker.engine import graph

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
SOURCE = "source.json"

Config = dict[str, Any]
Weights = dict[str, np.ndarray[Any, Any]]

_NOT_ARCHITECTURE = frozenset({"build_config", "compile_config", "shared_object_id"})
"""Layers are built by their graph, Thaw compiles anew, and shared ids are memory addresses."""


@dataclass(frozen=True)
class Source:
    """A model in memory with what is known about it. Nothing may change the model."""

    model: keras.Model
    info: SourceInfo


# === From a model ===


def config_of(model: keras.Model) -> Config:
    """The model's architecture as JSON data. Every layer says it is trainable: schedules decide that, not sources."""
    serialized = keras.saving.serialize_keras_object(model)
    config: Config = json.loads(json.dumps(_stripped(serialized), allow_nan=False))
    return config


def weights_of(model: keras.Model) -> Weights:
    """Every weight, batch-norm statistics included; states of random generators are no weights."""
    return {
        key_of(path, number, variable): np.asarray(keras.ops.convert_to_numpy(variable), order="C")
        for path, layer in graph.leaves(model)
        for number, variable in enumerate(layer.weights)
    }


def key_of(path: str, number: int, variable: Any) -> str:  # noqa: ANN401 (a Keras variable)
    """The name of a layer's weight: `conv1/0.kernel`."""
    # A variable without a name is numbered by Keras in the order of its making in this process.
    return f"{path}/{number}.{re.sub(r'^variable_[0-9]+$', 'variable', variable.name)}"


def digest_of(config: Config, weights: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """sha256 over architecture and weights, in hexadecimal."""
    total = hashlib.sha256(_json_bytes(config))
    for key in sorted(weights):
        array = np.asarray(weights[key], order="C")
        total.update(f"\n{key} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _stripped(value: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(value, dict):
        kept = {key: _stripped(item) for key, item in value.items() if key not in _NOT_ARCHITECTURE}
        return {**kept, "trainable": True} if isinstance(kept.get("trainable"), bool) else kept
    return [_stripped(item) for item in value] if isinstance(value, list | tuple) else value


# === To a model ===


def build(config: Config, weights: Mapping[str, np.ndarray[Any, Any]]) -> keras.Model:
    """The model that `config_of` and `weights_of` were taken from. The config must have passed the allow-list."""
    # Keras takes the config apart while it reads it.
    model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    assign_weights(model, weights)
    return model


def assign_weights(model: keras.Model, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Set every weight of the model. Raises `SourceError` if one is missing, left over, or of another shape."""
    keys = set()
    for path, layer in graph.leaves(model):
        for number, variable in enumerate(layer.weights):
            key = key_of(path, number, variable)
            keys.add(key)
            _assign(variable, weights.get(key), key)
        settle(layer)
    if left_over := sorted(set(weights) - keys):
        message = f"The weights hold '{left_over[0]}', which the architecture does not have. Register the model again."
        raise SourceError(message)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy into every layer of `target` the weights of the layer with the same path in `source`."""
    originals = dict(graph.leaves(source))
    for path, layer in graph.leaves(target):
        for variable, original in zip(layer.weights, originals[path].weights, strict=True):
            variable.assign(original)
        settle(layer)


def settle(layer: keras.Layer) -> None:
    """Let a layer that derives constants from its weights do so again; of Keras' own, Normalization does."""
    for inner in layer._flatten_layers():  # noqa: SLF001 (no public way to look inside wrappers)
        if isinstance(inner, keras.layers.Normalization) and inner.built:
            inner.finalize_state()


def _assign(variable: Any, value: np.ndarray[Any, Any] | None, key: str) -> None:  # noqa: ANN401 (a Keras variable)
    expected = tuple(variable.shape)
    if value is None or value.shape != expected:
        received = "none" if value is None else str(value.shape)
        message = f"Weight '{key}' should have shape {expected}, received {received}. Register the model again."
        raise SourceError(message)
    variable.assign(value)


# === Files ===


def write(folder: Path, config: Config, weights: Weights, info: SourceInfo) -> None:
    """Write the three files into an existing folder."""
    (folder / CONFIG).write_bytes(_json_bytes(config))
    save_file(weights, folder / WEIGHTS)
    (folder / SOURCE).write_text(info.model_dump_json(indent=1), encoding="utf-8")


def read(folder: Path) -> tuple[Config, Weights, SourceInfo]:
    """Read the three files. Raises `SourceError` if they are not what was written."""
    config = json.loads((folder / CONFIG).read_bytes())
    weights = load_file(folder / WEIGHTS)
    info = SourceInfo.model_validate_json((folder / SOURCE).read_bytes())
    if digest_of(config, weights) != info.digest:
        message = f"The files of model '{info.name}' are not what was registered. Register the model again."
        raise SourceError(message, code="source_changed")
    return config, weights, info


def _json_bytes(value: Any) -> bytes:  # noqa: ANN401 (JSON)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
