"""The exported model: raw examples in, the same predictions out, and no file where that does not hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import PlatformError
from app.domain.spec import Preprocessing

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def pictures(store_dataset: Callable[..., Path]) -> Any:
    """48 gray pictures of 6 x 6 with 8 bits, two classes, as an opened dataset."""
    from worker.engine.data import open_dataset

    y = np.arange(48) % 2
    x = np.random.default_rng(0).integers(0, 120, (48, 6, 6)) + 100 * y[:, None, None]
    return open_dataset(store_dataset(x=x.astype("uint8"), y=y))


def network(*, image_layers: bool = False) -> Any:
    """A model on pictures of 6 x 6; with layers that prepare pictures, as the result of an earlier job has."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 1), name="examples")
    tensor = layers.Rescaling(0.5, name="rescale")(inputs) if image_layers else inputs
    nested_inputs = keras.Input((6, 6, 1))
    nested = keras.Model(nested_inputs, layers.Conv2D(2, 3, name="conv")(nested_inputs), name="nested")
    tensor = layers.Flatten(name="flat")(nested(tensor))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="output")(tensor), name="model")


def resolved(model: Any, data: Any, store_source: Callable[..., Path]) -> Any:
    from worker.engine import sources
    from worker.engine.data import Preprocess

    info = sources.load(store_source(model)).info
    return Preprocess.resolve(Preprocessing(rescale="zero_to_one"), info, data.info)


def predictions(model: Any, split: Any, preprocess: Any) -> np.ndarray:
    return np.concatenate([np.asarray(model(x)) for x, _ in split.batches(32, preprocess=preprocess)])


def test_raw_examples_give_the_predictions_of_preprocessed_ones(
    pictures: Any, store_source: Callable[..., Path], tmp_path: Path
) -> None:
    import keras

    from worker.engine.export import keras_file

    model, test = network(), pictures.split("test")
    preprocess = resolved(model, pictures, store_source)
    expected = predictions(model, test, preprocess)
    assert expected.std() > 0.01
    difference = keras_file.write(
        keras_file.exported(model, preprocess), tmp_path / "m.keras", test=test, expected=expected
    )
    assert difference < 1e-5
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    raw = np.stack([test.example(index) for index in range(len(test))])
    assert raw.dtype == np.uint8
    np.testing.assert_allclose(reloaded.predict(raw, verbose=0), expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


def test_the_layers_lie_flat_and_keep_their_names(pictures: Any, store_source: Callable[..., Path]) -> None:
    from worker.engine.export import keras_file
    from worker.engine.surgery import leaf_layers

    model = network()
    exported = keras_file.exported(model, resolved(model, pictures, store_source))
    assert [path for path, _ in leaf_layers(exported)][-3:] == ["nested/conv", "flat", "output"]
    assert exported.layers[-1] is model.layers[-1]
    assert exported.input_shape == (None, 6, 6)


def test_a_result_as_source_again_gets_no_two_layers_of_one_name(
    pictures: Any, store_source: Callable[..., Path], tmp_path: Path
) -> None:
    from worker.engine.export import keras_file
    from worker.engine.surgery import leaf_layers

    model, test = network(image_layers=True), pictures.split("test")
    preprocess = resolved(model, pictures, store_source)
    exported = keras_file.exported(model, preprocess)
    assert {"rescale", "rescale_2"} < {path for path, _ in leaf_layers(exported)}
    expected = predictions(model, test, preprocess)
    assert keras_file.write(exported, tmp_path / "m.keras", test=test, expected=expected) < 1e-5


def test_a_model_that_predicts_something_else_is_not_published(
    pictures: Any, store_source: Callable[..., Path], tmp_path: Path
) -> None:
    from worker.engine.data import Preprocess
    from worker.engine.export import keras_file

    model, test = network(), pictures.split("test")
    preprocess = resolved(model, pictures, store_source)
    expected = predictions(model, test, preprocess)
    forgotten = Preprocess.resolve(Preprocessing(rescale="none"), _info(model, store_source), pictures.info)
    with pytest.raises(PlatformError, match="differ by up to") as caught:
        keras_file.write(keras_file.exported(model, forgotten), tmp_path / "m.keras", test=test, expected=expected)
    assert caught.value.failure().code == "export_check_failed"
    assert list(tmp_path.iterdir()) == []


def _info(model: Any, store_source: Callable[..., Path]) -> Any:
    from worker.engine import sources

    return sources.load(store_source(model)).info


def test_called_like_a_function_the_result_predicts_and_learns_nothing(
    store_source: Callable[..., Path], store_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Keras' Resizing runs as if in training, and tells the layers behind it to do the same."""
    import keras

    from worker.engine.data import Preprocess, open_dataset
    from worker.engine.export import keras_file

    x = np.random.default_rng(0).integers(0, 255, (48, 9, 9)).astype("uint8")
    data = open_dataset(store_dataset(x=x, y=np.arange(48) % 2))
    inputs = keras.Input((6, 6, 1))
    normalized = keras.layers.BatchNormalization()(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(normalized))
    preprocess = Preprocess.resolve(Preprocessing(rescale="zero_to_one"), _info(model, store_source), data.info)
    raw = data.split("test").examples(np.arange(len(data.split("test"))))
    expected = np.asarray(model(preprocess.apply(raw), training=False))
    keras_file.write(
        keras_file.exported(model, preprocess), tmp_path / "m.keras", test=data.split("test"), expected=expected
    )
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    before = [np.array(weight) for weight in reloaded.weights]
    np.testing.assert_allclose(reloaded(raw), expected, atol=1e-5)
    for old, weight in zip(before, reloaded.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    reloaded.compile(loss="binary_crossentropy")
    reloaded.fit(raw, data.split("test").labels[:, None], verbose=0)
    moved = [not np.array_equal(old, weight) for old, weight in zip(before, reloaded.weights, strict=True)]
    assert all(moved), "trained on purpose, all of it learns"
