"""Model files built at run time: honest ones, and the parts that hostile ones are made of. No Keras in here."""

import io
import json
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

Config = dict[str, Any]

MLP_WEIGHTS = {
    "layers/dense/vars/0": np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3),
    "layers/dense/vars/1": np.array([0.1, 0.2, 0.3], "float32"),
    "layers/dense_1/vars/0": np.linspace(1, -1, 6, dtype="float32").reshape(3, 2),
    "layers/dense_1/vars/1": np.array([-0.5, 0.5], "float32"),
}


def layer(class_name: str, name: str, *, module: str | None = "keras.layers", **config: Any) -> Config:
    """A layer as Keras writes it."""
    return {"module": module, "class_name": class_name, "config": {"name": name, **config}, "registered_name": None}


def input_layer(*shape: int | None, name: str = "input") -> Config:
    return layer("InputLayer", name, batch_shape=[None, *shape], dtype="float32")


def sequential(*layers: Config, name: str = "model") -> Config:
    config = {"name": name, "layers": list(layers)}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


def functional(*layers: Config, output: str, name: str = "model") -> Config:
    """A graph of layers made by `called`; the first is the input."""
    config = {
        "name": name,
        "layers": list(layers),
        "input_layers": [[layers[0]["config"]["name"], 0, 0]],
        "output_layers": [[output, 0, 0]],
    }
    module = "keras.src.models.functional"
    return {"module": module, "class_name": "Functional", "config": config, "registered_name": "Functional"}


def called(node: Config, *arguments: Any, **keywords: Any) -> Config:
    """A layer of a functional model, called once; without arguments: its input."""
    use = {"args": list(arguments), "kwargs": keywords}
    return {**node, "name": node["config"]["name"], "inbound_nodes": [use] if arguments or keywords else []}


def tensor(name: str, *shape: int | None) -> Config:
    """The output of a layer, as an argument."""
    config = {"shape": [None, *shape], "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def mlp(**hidden: Any) -> Config:
    """Four numbers in, two out, as `MLP_WEIGHTS` fits; `hidden` changes the hidden layer's config."""
    return sequential(
        input_layer(4),
        layer("Dense", "hidden", **{"units": 3, "activation": "relu", **hidden}),
        layer("Dense", "top", units=2, activation="softmax"),
    )


def weights_file(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return buffer.getvalue()


@pytest.fixture(name="build")
def _build() -> Any:
    """The functions of this file, for tests."""
    parts = (layer, input_layer, sequential, functional, called, tensor, mlp, weights_file)
    return types.SimpleNamespace(**{part.__name__: part for part in parts}, MLP_WEIGHTS=MLP_WEIGHTS)


@pytest.fixture
def keras_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a `.keras` archive: `keras_file(config)`, or with members of its own choice."""

    def write(
        config: Config | bytes | None = None,
        *,
        weights: Mapping[str, Any] | bytes = MLP_WEIGHTS,
        version: str | None = "3.15.1",
        more: Mapping[str, bytes] | None = None,
        name: str = "upload.keras",
    ) -> Path:
        path = tmp_path / name
        text = config if isinstance(config, bytes) else json.dumps(mlp() if config is None else config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version, "date_saved": "2026-01-01"}))
            archive.writestr("config.json", text)
            archive.writestr("model.weights.h5", weights if isinstance(weights, bytes) else weights_file(weights))
            for member, content in (more or {}).items():
                archive.writestr(member, content)
        return path

    return write


@pytest.fixture
def h5_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a whole model as HDF5, as `model.save('x.h5')` does: `h5_file(config, {layer: {weight: array}})`."""

    def write(config: Config | str, weights: Mapping[str, Mapping[str, Any]], *, version: str = "2.4.0") -> Path:
        path = tmp_path / "upload.h5"
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = version
            file.attrs["backend"] = "tensorflow"
            file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = [name.encode() for name in weights]
            for name, arrays in weights.items():
                inner = group.create_group(name)
                inner.attrs["weight_names"] = [weight.encode() for weight in arrays]
                for weight, array in arrays.items():
                    inner[weight] = array
        return path

    return write
