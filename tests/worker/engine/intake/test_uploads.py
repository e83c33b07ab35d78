"""Files as old versions of Keras wrote them, built by hand, against numbers computed with NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import SourceError
from app.domain.model import ModelOptions, SourceInfo

pytestmark = pytest.mark.tensorflow

Array = np.ndarray[Any, Any]
Write = Callable[..., Path]

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(6, 4)).astype("float32")
A, B, C = (RANDOM.normal(size=(4, 4)).astype("float32") for _ in range(3))


def register(path: Path, tmp_path: Path) -> tuple[SourceInfo, Any]:
    from worker.engine import sources

    info = sources.register(path, tmp_path / "canonical", options=ModelOptions(), max_parameters=1000)
    return info, sources.load(tmp_path / "canonical").model


def dense(name: str, *, units: int = 4, **config: Any) -> dict[str, Any]:
    return {
        "class_name": "Dense",
        "config": {"name": name, "trainable": True, "units": units, "use_bias": False, **config},
    }


def entry(name: str) -> dict[str, Any]:
    config = {"batch_input_shape": [None, 4], "dtype": "float32", "sparse": False, "ragged": False, "name": name}
    return {"class_name": "InputLayer", "config": config, "name": name, "inbound_nodes": []}


def used(layer: dict[str, Any], *references: list[Any]) -> dict[str, Any]:
    return {**layer, "name": layer["config"]["name"], "inbound_nodes": [list(references)]}


def graph(class_name: str, name: str, layers: list[dict[str, Any]], output: list[Any]) -> dict[str, Any]:
    first = layers[0]["config"]["name"]
    config = {"name": name, "layers": layers, "input_layers": [[first, 0, 0]], "output_layers": [output]}
    return {"class_name": class_name, "config": config}


@pytest.mark.parametrize("inner_class", ["Functional", "Model", "Sequential"])
def test_a_nested_model_of_keras_2_whose_first_use_is_number_one(
    inner_class: str, h5_file: Write, tmp_path: Path
) -> None:
    if inner_class == "Sequential":
        inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [entry("i"), dense("a")]}}
    else:
        inner = graph(inner_class, "inner", [entry("i"), used(dense("a"), ["i", 0, 0, {}])], ["a", 0, 0])
    model = graph(
        "Functional",
        "outer",
        [
            entry("o"),
            used(inner, ["o", 0, 0, {"training": False}]),
            used(dense("b"), ["inner", 1, 0, {}]),
            used(
                {"class_name": "Add", "config": {"name": "sum", "trainable": True}},
                ["b", 0, 0, {}],
                ["inner", 1, 0, {}],
            ),
        ],
        ["sum", 0, 0],
    )
    info, loaded = register(h5_file(model, {"inner": {"a/kernel:0": A}, "b": {"b/kernel:0": B}}), tmp_path)
    assert [row.path for row in info.layers] == ["o", "inner/a", "b", "sum"]
    assert info.layers[3].inputs == [1, 2]
    np.testing.assert_allclose(loaded(X).numpy(), X @ A @ B + X @ A, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inner_class", "number"), [("Functional", 1), ("Sequential", 1), ("Sequential", 0)])
def test_a_nested_model_at_the_end(inner_class: str, number: int, h5_file: Write, tmp_path: Path) -> None:
    if inner_class == "Sequential":
        inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [entry("i"), dense("b")]}}
    else:
        inner = graph("Functional", "inner", [entry("i"), used(dense("b"), ["i", 0, 0, {}])], ["b", 0, 0])
    layers = [entry("o"), used(dense("a"), ["o", 0, 0, {}]), used(inner, ["a", 0, 0, {}])]
    model = graph("Functional", "outer", layers, ["inner", number, 0])
    info, loaded = register(h5_file(model, {"a": {"a/kernel:0": A}, "inner": {"b/kernel:0": B}}), tmp_path)
    assert [row.path for row in info.layers] == ["o", "a", "inner/b"]
    np.testing.assert_allclose(loaded(X).numpy(), X @ A @ B, rtol=1e-4, atol=1e-5)


def test_a_nested_model_that_is_used_twice(h5_file: Write, tmp_path: Path) -> None:
    inner = graph("Functional", "inner", [entry("i"), used(dense("a"), ["i", 0, 0, {}])], ["a", 0, 0])
    twice = {**used(inner, ["o", 0, 0, {}]), "inbound_nodes": [[["o", 0, 0, {}]], [["inner", 1, 0, {}]]]}
    add = {"class_name": "Add", "config": {"name": "sum", "trainable": True}}
    layers = [entry("o"), twice, used(add, ["inner", 1, 0, {}], ["inner", 2, 0, {}])]
    info, loaded = register(
        h5_file(graph("Functional", "m", layers, ["sum", 0, 0]), {"inner": {"a/kernel:0": A}}), tmp_path
    )
    np.testing.assert_allclose(loaded(X).numpy(), X @ A + X @ A @ A, rtol=1e-4, atol=1e-5)
    assert [row.legal_cut for row in info.layers] == [False, False, True]


def test_frozen_layers_change_the_order_of_the_weights_in_old_files_and_are_read_right(
    h5_file: Write, tmp_path: Path
) -> None:
    """Keras 2 wrote a nested model's trainable weights first, then those of its frozen layers."""
    frozen, free = dense("frozen", trainable=False), dense("free")
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [entry("i"), frozen, free]}}
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [inner]}}
    path = h5_file(model, {"inner": {"free/kernel:0": B, "frozen/kernel:0": A}})
    info, loaded = register(path, tmp_path)
    np.testing.assert_allclose(loaded(X).numpy(), X @ A @ B, rtol=1e-4, atol=1e-5)
    assert [row.path for row in info.layers] == ["input", "inner/frozen", "inner/free"]
    assert all(variable.trainable for variable in loaded.weights)


def test_batch_norm_of_keras_2(h5_file: Write, tmp_path: Path) -> None:
    gamma, beta, mean, variance = (RANDOM.random(4).astype("float32") + 0.5 for _ in range(4))
    norm = {
        "class_name": "BatchNormalization",
        "config": {"name": "bn", "axis": [1], "epsilon": 0.001, "trainable": True},
    }
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [entry("i"), norm]}}
    arrays = {"bn/gamma:0": gamma, "bn/beta:0": beta, "bn/moving_mean:0": mean, "bn/moving_variance:0": variance}
    info, loaded = register(h5_file(model, {"bn": arrays}), tmp_path)
    expected = (X - mean) / np.sqrt(variance + 0.001) * gamma + beta
    np.testing.assert_allclose(loaded(X, training=False).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert "`axis` of BatchNormalization became a number." in info.upgrades


def test_a_keras_file_of_2_13_from_windows(keras_file: Write, tmp_path: Path) -> None:
    layers = [
        {**layer, "module": "keras.layers", "registered_name": None, "build_config": {"input_shape": [None, 4]}}
        for layer in (entry("i"), dense("a"), dense("b"), dense("c"))
    ]
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": layers},
        "registered_name": None,
        "build_config": {"input_shape": [None, 4]},
    }
    old = "_layer_checkpoint_dependencies"
    weights = {f"{old}\\dense/vars/0": A, f"{old}\\dense_2/vars/0": B, f"{old}\\dense_4/vars/0": C}
    info, loaded = register(keras_file(config, weights=weights, version="2.13.1"), tmp_path)
    np.testing.assert_allclose(loaded(X).numpy(), X @ A @ B @ C, rtol=1e-3, atol=1e-4)
    assert info.keras_version == "2.13.1"


def test_a_file_that_does_not_say_its_version_has_none(build: Any, keras_file: Write, tmp_path: Path) -> None:
    assert register(keras_file(build.mlp(), version=None), tmp_path)[0].keras_version is None


def test_what_keras_cannot_build_is_refused_with_its_reason(h5_file: Write, tmp_path: Path) -> None:
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [entry("i"), dense("a", surprise=1)]}}
    with pytest.raises(SourceError, match=r"cannot build this model.*surprise") as caught:
        register(h5_file(model, {"a": {"a/kernel:0": A}}), tmp_path)
    assert caught.value.work_code == "unsupported_model"


def test_a_graph_in_a_circle_is_refused(h5_file: Write, tmp_path: Path) -> None:
    layers = [entry("o"), used(dense("a"), ["b", 0, 0, {}]), used(dense("b"), ["a", 0, 0, {}])]
    with pytest.raises(SourceError) as caught:
        register(h5_file(graph("Functional", "m", layers, ["b", 0, 0]), {}), tmp_path)
    assert caught.value.work_code == "unsupported_model"


def test_weights_that_waited_for_a_refused_model_are_never_made(build: Any, keras_file: Write, tmp_path: Path) -> None:
    import keras

    huge = build.sequential(build.input_layer(4), build.layer("Dense", "huge", units=2**40))
    with pytest.raises(SourceError, match="parameters"):
        register(keras_file(huge), tmp_path)
    with keras.StatelessScope():
        pass  # would give them their values: 16 TiB
