"""Layers of Keras 2 compute today what they computed then: files written by hand, outputs worked out with NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import SourceError
from app.domain.model import ModelOptions

pytestmark = pytest.mark.tensorflow

Array = np.ndarray[Any, Any]
X = np.random.default_rng(5).normal(size=(3, 4, 2)).astype("float32")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def old(*layers: tuple[str, dict[str, Any]], shape: tuple[int, ...]) -> dict[str, Any]:
    """A Sequential model as Keras 2.1 wrote it: the list of layers, the input's shape beside the first."""
    configs = [{"class_name": kind, "config": {"name": f"l{number}", **config}}
               for number, (kind, config) in enumerate(layers)]  # fmt: skip
    configs[0]["config"]["batch_input_shape"] = [None, *shape]
    return {"class_name": "Sequential", "config": configs}


def output(path: Path, folder: Path, x: Array) -> Array:
    from worker.engine import sources

    sources.register(path, folder, options=ModelOptions(), max_parameters=10**6)
    return np.asarray(sources.load(folder).model(x, training=False))


def test_a_gru_from_before_reset_after(h5_file: Callable[..., Path], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kernel, recurrent = random.normal(size=(2, 9)), random.normal(size=(3, 9))
    bias = random.normal(size=9)
    names = [f"l0/{part}:0" for part in ("kernel", "recurrent_kernel", "bias")]
    arrays = (array.astype("float32") for array in (kernel, recurrent, bias))
    config = old(("GRU", {"units": 3, "recurrent_activation": "sigmoid", "implementation": 1}), shape=(4, 2))
    path = h5_file(config, {"l0": dict(zip(names, arrays, strict=True))}, version="2.1.2")
    state = np.zeros((3, 3))
    for step in range(4):  # Cho et al. 2014: the reset gate before the recurrent product
        inner = X[:, step] @ kernel + bias
        update, reset = (sigmoid(inner[:, at] + state @ recurrent[:, at]) for at in (slice(0, 3), slice(3, 6)))
        candidate = np.tanh(inner[:, 6:] + (reset * state) @ recurrent[:, 6:])
        state = update * state + (1 - update) * candidate
    np.testing.assert_allclose(output(path, tmp_path / "m", X), state, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("ThresholdedReLU", {"theta": 0.5}, np.where(X > 0.5, X, 0)),
        ("LeakyReLU", {"alpha": 0.1}, np.where(X > 0, X, 0.1 * X)),
        ("Activation", {"activation": "softmax_v2"}, np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
    ],
)
def test_activations(
    kind: str, config: dict[str, Any], expected: Array, h5_file: Callable[..., Path], tmp_path: Path
) -> None:
    # A weight has to be there; this one changes nothing.
    model = old((kind, config), ("Dense", {"units": 2, "use_bias": False}), shape=(4, 2))
    path = h5_file(model, {"l1": {"l1/kernel:0": np.eye(2, dtype="float32")}}, version="2.3.0-tf")
    np.testing.assert_allclose(output(path, tmp_path / "m", X), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["SyncBatchNormalization", "BatchNormalizationV1", "BatchNormalization"])
def test_batch_normalization_under_all_its_names(kind: str, h5_file: Callable[..., Path], tmp_path: Path) -> None:
    gamma, beta, mean, variance = np.random.default_rng(1).uniform(0.5, 2, (4, 2)).astype("float32")
    parts = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
    config = old((kind, {"axis": [2], "epsilon": 0.01, "momentum": 0.9}), shape=(4, 2))
    path = h5_file(config, {"l0": {f"l0/{name}:0": array for name, array in parts.items()}}, version="2.4.0")
    expected = gamma * (X - mean) / np.sqrt(variance + 0.01) + beta
    np.testing.assert_allclose(output(path, tmp_path / "m", X), expected, rtol=0, atol=1e-5)


def test_a_depthwise_convolution_that_says_groups(h5_file: Callable[..., Path], tmp_path: Path) -> None:
    kernel = np.random.default_rng(2).normal(size=(1, 1, 2, 1)).astype("float32")
    config = old(
        ("DepthwiseConv2D", {"kernel_size": [1, 1], "groups": 1, "use_bias": False, "depthwise_initializer": "zeros"}),
        shape=(4, 1, 2),
    )
    path = h5_file(config, {"l0": {"l0/depthwise_kernel:0": kernel}}, version="2.14.0")
    x = X[:, :, None]
    np.testing.assert_allclose(output(path, tmp_path / "m", x), x * kernel[0, 0, :, 0], rtol=0, atol=1e-6)


# === Calls of TensorFlow ===


def called(kind: str, name: str, *references: Any, **config: Any) -> dict[str, Any]:
    node = {"class_name": kind, "config": {"name": name, **config}, "name": name}
    return {**node, "inbound_nodes": list(references)}


def graph(*layers: dict[str, Any]) -> dict[str, Any]:
    """A functional model as Keras 2.4 wrote it, that ends in a Dense layer without effect."""
    top = called("Dense", "top", [[layers[-1]["name"], 0, 0, {}]], units=2, use_bias=False)
    entry = called("InputLayer", "input", batch_input_shape=[None, 4, 2], dtype="float32")
    config = {"name": "m", "layers": [entry, *layers, top], "input_layers": [["input", 0, 0]]}
    return {"class_name": "Functional", "config": {**config, "output_layers": [["top", 0, 0]]}}


TOP = {"top": {"top/kernel:0": np.eye(2, dtype="float32")}}


def tf(function: str, source: str, **arguments: Any) -> dict[str, Any]:
    name = f"tf.{function}"
    return called("TFOpLambda", name, [source, 0, 0, {**arguments, "name": None}], function=function, trainable=True)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([tf("math.truediv", "input", y=127.5), tf("math.subtract", "tf.math.truediv", y=1.0)], X / 127.5 - 1),
        # hard_swish of MobileNetV3 before Keras 3
        (
            [tf("__operators__.add", "input", y=3.0), tf("nn.relu6", "tf.__operators__.add"),
             tf("math.multiply", "tf.nn.relu6", y=0.16666667)],
            np.clip(X + 3, 0, 6) / 6,
        ),
        ([tf("nn.silu", "input"), tf("math.square", "tf.nn.silu")], (X * sigmoid(X)) ** 2),
    ],
    ids=["preprocess_input", "hard_sigmoid of MobileNetV3", "functions of one tensor"],
)  # fmt: skip
def test_arithmetic_of_tensorflow_inside_a_functional_model(
    layers: list[dict[str, Any]], expected: Array, h5_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = h5_file(graph(*layers), TOP, version="2.8.0")
    np.testing.assert_allclose(output(path, tmp_path / "m", X), expected, rtol=0, atol=1e-6)


def test_what_was_translated_is_told(h5_file: Callable[..., Path], tmp_path: Path) -> None:
    from worker.engine.intake.vet import vet

    vetted = vet(h5_file(graph(tf("math.truediv", "input", y=2)), TOP), tmp_path)
    assert "Calls of TensorFlow's functions became operations of Keras." in vetted.upgrades


@pytest.mark.parametrize(
    "layer",
    [
        tf("math.truediv", "input", y=["input", 0, 0]),
        tf("math.truediv", "input", y=True),
        tf("math.truediv", "input", y=2.0, x=1.0),
        tf("math.truediv", "input"),
        tf("nn.relu6", "input", axis=1),
        tf("io.read_file", "input"),
        tf("py_function", "input", y=1.0),
        called("TFOpLambda", "x", ["_CONSTANT_VALUE", -1, 3.0, {"y": ["input", 0, 0]}], function="math.subtract"),
        called("TFOpLambda", "x", function="math.subtract"),
        called("TFOpLambda", "x", ["input", 0, 0, {"y": 1.0}], function=["math.subtract"]),
        called("SlicingOpLambda", "x", ["input", 0, 0, {"slice_spec": 1}], function="__operators__.getitem"),
    ],
    ids=range(11),
)
def test_every_other_call_of_tensorflow_is_refused(
    layer: dict[str, Any], h5_file: Callable[..., Path], tmp_path: Path
) -> None:
    from worker.engine.intake.vet import vet

    with pytest.raises(SourceError, match=r"calls TensorFlow functions by name"):
        vet(h5_file(graph(layer), TOP), tmp_path)
