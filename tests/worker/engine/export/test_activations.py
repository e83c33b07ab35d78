"""Activations for 8 bits: the same functions as Keras', and converted models that keep their answers by them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:[\\s\\S]*tf.lite.Interpreter is deprecated:UserWarning"),
]

NAMES = ["elu", "selu", "softplus"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_the_same_functions(name: str) -> None:
    import keras

    from worker.engine.export import activations

    x = np.concatenate([np.linspace(-90, 90, 2001), [0.0]]).astype("float32")
    ours, theirs = (np.asarray(each(x)) for each in (getattr(activations, name), getattr(keras.activations, name)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-7)


def test_layers_have_them_in_the_block_only() -> None:
    import keras

    from worker.engine.export import activations

    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="selu", name="inside")])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Activation("relu"), keras.layers.Dense(1)])
    with activations.bounded(model):
        assert inner.get_layer("inside").activation is activations.selu
        assert model.layers[1].activation is keras.activations.relu
    assert inner.get_layer("inside").activation is keras.activations.selu


@pytest.mark.parametrize("name", ["selu", "softplus"])
def test_in_8_bits_they_keep_the_answers(name: str, store_dataset: Callable[..., Path], tmp_path: Path) -> None:
    """Without them 1 of 4 answers changes (selu), or most (softplus)."""
    import keras

    from worker.engine.export.converting import Bench, make
    from worker.engine.export.order import Order

    random = np.random.default_rng(0)
    x = (10 * random.normal(size=(600, 12))).astype("float32")
    y = np.argmax(np.stack([x[:, 0] * x[:, 1], 10 * x[:, 2], x[:, 3] * x[:, 4], 10 * x[:, 5]]), axis=0)
    keras.utils.set_random_seed(1)
    tensor = inputs = keras.Input((12,))
    for _ in range(2):
        tensor = keras.layers.Dense(32, activation=name)(tensor)
    model: Any = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(tensor))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=15, verbose=0)
    model.save(tmp_path / "model.keras")
    order = Order(
        formats=["litert_int8"],
        model=tmp_path / "model.keras",
        data=store_dataset(x=x, y=y),
        task="single_label",
        image_size=None,
        seed=1,
        folder=tmp_path,
    )
    export = make(Bench(order), "litert_int8")
    assert export.status == "succeeded", export.reason
    assert export.agreement is not None
    assert export.agreement > 0.9
