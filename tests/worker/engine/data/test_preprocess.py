"""What the training pipeline computes is what the exported model computes, on real Keras layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from app.domain.dataset import DatasetInfo
from app.domain.errors import DataError, UserError
from app.domain.model import LayerRow, SourceInfo
from app.domain.spec import Preprocessing, Rescale
from worker.engine.data.preprocess import Preprocess

pytestmark = pytest.mark.tensorflow


def source(
    shape: Sequence[int | None],
    *,
    dtype: str = "float32",
    rescale: Rescale | None = None,
    layers: Sequence[tuple[str, list[int | None]]] = (),
) -> SourceInfo:
    rows = [
        LayerRow(
            index=index,
            path=f"layer_{index}",
            class_name=name,
            output_shape=output,
            parameters=0,
            has_weights=False,
            legal_cut=True,
        )
        for index, (name, output) in enumerate(layers)
    ]
    return SourceInfo(
        format="keras",
        keras_version=keras.__version__,
        class_name="Functional",
        name="source",
        input_shape=[None, *shape],
        input_dtype=dtype,
        output_shape=[None, 2],
        parameters=0,
        layers=rows,
        rescale=rescale,
        digest="0" * 64,
    )


def dataset(
    shape: Sequence[int | None], dtype: str = "uint8", value_range: tuple[float, float] = (0.0, 255.0)
) -> DatasetInfo:
    return DatasetInfo(
        kind="images",
        task="binary",
        example_shape=list(shape),
        dtype=dtype,
        value_range=value_range,
        classes=["a", "b"],
        splits={},
        digest="0" * 64,
    )


def exported(preprocess: Preprocess) -> keras.Model:
    """The preprocessing as a model of its own, in front of nothing."""
    raw = keras.Input(preprocess.input_shape, dtype=preprocess.input_dtype)
    tensor: Any = raw
    for layer in preprocess.layers():
        tensor = layer(tensor)
    return keras.Model(raw, keras.layers.Activation("linear")(tensor))


def pictures(count: int, *shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]


@pytest.mark.parametrize("rescale", ["none", "zero_to_one", "minus_one_to_one"])
@pytest.mark.parametrize("shape", [(17, 40, 3), (160, 120, 3), (64, 64, 3), (301, 7, 3)])
def test_training_and_exported_model_see_the_same_bits(rescale: Rescale, shape: tuple[int, int, int]) -> None:
    preprocess = Preprocess.resolve(
        Preprocessing(rescale=rescale, image_size=(64, 64)), source((None, None, 3)), dataset((None, None, 3))
    )
    examples = pictures(2, *shape)
    model = exported(preprocess)
    np.testing.assert_array_equal(preprocess.apply(examples), model(np.stack(examples)).numpy())
    np.testing.assert_array_equal(preprocess.apply(examples), model.predict(np.stack(examples), verbose=0))
