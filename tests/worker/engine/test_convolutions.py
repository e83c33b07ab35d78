"""Convolutions with a kernel of one position, strides and few channels: the same numbers, and right gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


def layers_of(rank: int, *, channels: int = 8, **options: Any) -> Any:
    import keras

    kind = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    inputs = keras.Input((*(9, 8, 7)[:rank], channels))
    return keras.Model(inputs, kind(4, **{"kernel_size": 1, "strides": 2, "name": "conv", **options})(inputs))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "valid", "bias_initializer": "ones", "activation": "relu"},
        {"use_bias": False, "groups": 2},
        {"padding": "same", "strides": 3},
    ],
    ids=["same", "bias", "groups", "threes"],
)
def test_they_compute_what_keras_computes(rank: int, options: dict[str, Any]) -> None:
    import keras

    from worker.engine import convolutions

    model = layers_of(rank, **options)
    x = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:])).astype("float32")
    expected, config = keras.ops.convert_to_numpy(model(x)), model.get_config()
    assert convolutions.make_sound(model) == ["conv"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-6, atol=1e-6)
    assert model.get_config() == config


@pytest.mark.parametrize(
    "options",
    [{"strides": 1}, {"kernel_size": 3}, {"channels": 16}],
    ids=["no-strides", "larger-kernel", "enough-channels"],
)
def test_others_are_left_alone(options: dict[str, Any]) -> None:
    from worker.engine import convolutions

    assert convolutions.make_sound(layers_of(2, **options)) == []


def test_those_inside_of_models_and_wrappers_are_found() -> None:
    import keras

    from worker.engine import convolutions

    conv = keras.layers.Conv2D(4, 1, strides=2, name="wrapped")
    inner = keras.Sequential([keras.Input((5, 8, 8, 3)), keras.layers.TimeDistributed(conv)])
    inputs = keras.Input((5, 8, 8, 3))
    assert convolutions.make_sound(keras.Model(inputs, inner(inputs))) == ["wrapped"]


@pytest.mark.parametrize("channels", [3, 4, 8])
def test_their_gradients_are_right(channels: int) -> None:
    """With oneDNN's own, this crashes on some machines, and is wrong on others."""
    import keras
    import tensorflow as tf

    from worker.engine import convolutions

    inputs = keras.Input((60, 60, channels))
    model = keras.Model(inputs, keras.layers.Conv2D(16, 1, strides=2, padding="same", use_bias=False)(inputs))
    convolutions.make_sound(model)
    x = np.random.default_rng(0).normal(size=(8, 60, 60, channels)).astype("float32")
    weights = np.random.default_rng(1).normal(size=(8, 30, 30, 16)).astype("float32")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(x) * weights)
    found = tape.gradient(total, model.trainable_weights[0])
    expected = np.einsum("nhwi,nhwo->io", x[:, ::2, ::2].astype("float64"), weights.astype("float64"))
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-3)


def test_a_network_with_such_a_shortcut_trains(
    store_source: Callable[..., Path], store_dataset: Callable[..., Path], recorder: Callable[..., Any], tmp_path: Path
) -> None:
    import keras
    from keras import layers

    from app.domain.spec import Spec, resolve
    from worker.engine.train import train

    raw = keras.Input((60, 60, 3))
    low = layers.Conv2D(8, 3, padding="same", name="low")(raw)
    main = layers.Conv2D(16, 3, strides=2, padding="same", name="main")(low)
    shortcut = layers.Conv2D(16, 1, strides=2, name="shortcut")(low)
    top = layers.Dense(4, name="top")(
        layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([main, shortcut]))
    )
    source = store_source(keras.Model(raw, top))
    y = np.arange(80) % 2
    x = np.random.default_rng(0).integers(0, 200, (80, 60, 60, 3)) + 50 * y[:, None, None, None]
    spec = Spec.model_validate(
        {"schedule": [{"unfreeze": "all", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 0.001}}]}
    )
    trained = train(resolve(spec, seed=1), source, store_dataset(x=x.astype("uint8"), y=y), tmp_path, recorder())
    assert trained.report.phases[0].proof
    assert trained.report.phases[0].proof.held
