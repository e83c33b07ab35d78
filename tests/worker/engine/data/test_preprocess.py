"""What the training pipeline computes is what the exported model computes, on real Keras layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

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
        kind="images" if len(shape) == 3 and dtype == "uint8" else "arrays",
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


RESCALES = get_args(Rescale)


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("shape", [(17, 40, 3), (160, 120, 3), (64, 64, 3), (301, 7, 3)])
def test_training_and_exported_model_see_the_same_bits(rescale: Rescale, shape: tuple[int, int, int]) -> None:
    preprocess = Preprocess.resolve(
        Preprocessing(rescale=rescale, image_size=(64, 64)), source((None, None, 3)), dataset((None, None, 3))
    )
    examples = pictures(2, *shape)
    model = exported(preprocess)
    np.testing.assert_array_equal(preprocess.apply(examples), model(np.stack(examples)).numpy())
    np.testing.assert_array_equal(preprocess.apply(examples), model.predict(np.stack(examples), verbose=0))


@pytest.mark.parametrize(
    ("rescale", "mode"),
    [("minus_one_to_one", "tf"), ("imagenet_mean_std", "torch"), ("imagenet_bgr_mean", "caffe")],
)
def test_pictures_are_scaled_as_keras_applications_do(rescale: Rescale, mode: str) -> None:
    every_value = np.arange(256, dtype=np.uint8)
    raw = np.stack([every_value, every_value[::-1], np.roll(every_value, 7)], axis=-1).reshape(1, 16, 16, 3)
    plan = Preprocess.resolve(Preprocessing(rescale=rescale), source((16, 16, 3)), dataset((16, 16, 3)))
    expected = keras.applications.imagenet_utils.preprocess_input(raw.astype(np.float32), mode=mode)
    np.testing.assert_allclose(plan.apply(raw), expected, rtol=0, atol=1e-6)


def test_values_are_those_of_an_independent_bilinear_resize() -> None:
    preprocess = Preprocess((2, 2, 1), "uint8", (4, 4, 1), "none", image_size=(4, 4))
    picture = np.array([[0, 100], [200, 40]], np.uint8)[None, ..., None]
    # Half-pixel centres by hand: 0, 1/4, 3/4, 1 of the way from one to the other.
    way = np.array([0, 0.25, 0.75, 1])
    top, bottom = 0 + 100 * way, 200 - 160 * way
    expected = top + (bottom - top) * way[:, None]
    np.testing.assert_allclose(preprocess.apply(picture)[0, ..., 0], expected, atol=1e-4)


TORCH, CAFFE = {"rescale": "imagenet_mean_std"}, {"rescale": "imagenet_bgr_mean"}
CASES: dict[str, tuple[Sequence[int | None], str, Sequence[int | None], dict[str, Any]]] = {
    "images of the right number of pixels for vectors": ((8, 8, 1), "uint8", (64,), {}),
    "gray pictures for a colour source": ((None, None, 1), "uint8", (32, 32, 3), {}),
    "arrays (28, 28) for pictures (28, 28, 1)": ((28, 28), "uint8", (28, 28, 1), {}),
    "arrays (28, 28) for colour pictures of another size": ((28, 28), "float32", (32, 32, 3), {}),
    "arrays (28, 28) for vectors": ((28, 28), "uint8", (784,), {}),
    "vectors for pictures": ((784,), "uint8", (28, 28, 1), {}),
    "vectors as they are": ((64,), "float32", (64,), {}),
    "whole numbers for a source of floats": ((5,), "int64", (5,), {}),
    "16-bit pictures of another size": ((20, 30, 3), "uint16", (16, 16, 3), {}),
    "pictures resized, then laid flat": ((None, None, 1), "uint8", (64,), {"image_size": (8, 8)}),
    "arrays (12, 9) resized, then laid flat": ((12, 9), "uint8", (64,), {"image_size": (8, 8)}),
    "sequences of any length": ((7, 2), "float32", (None, 2), {}),
    "gray pictures for a source that scales by colour": ((None, None, 1), "uint8", (32, 32, 3), TORCH),
    "gray arrays (28, 28) for a source that scales by colour": ((28, 28), "float32", (28, 28, 3), TORCH),
    "gray arrays (28, 28) for a source that takes blue first": ((28, 28), "uint8", (28, 28, 3), CAFFE),
    "gray arrays (28, 28) of another size for a source that takes blue first": ((28, 28), "uint8", (16, 16, 3), CAFFE),
    "8-bit pictures as they are for a source that takes blue first": ((16, 16, 3), "uint8", (16, 16, 3), CAFFE),
    "16-bit pictures of another size for a source that takes blue first": ((9, 7, 3), "uint16", (16, 16, 3), CAFFE),
    "scaled to both sides of zero": ((28, 28), "uint8", (784,), {"rescale": "minus_one_to_one"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_dataset_that_fits_gives_the_same_bits_in_training_and_export(case: str, tmp_path: Path) -> None:
    shape, dtype, expected, wanted = CASES[case]
    preprocess = Preprocess.resolve(Preprocessing(**wanted), source(expected), dataset(shape, dtype))
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (3, *[size or 21 for size in shape])).astype(dtype)
    values = preprocess.apply(raw)
    assert values.dtype == np.float32
    assert values.shape[1:] == preprocess.output_shape
    assert all(want in (None, size) for want, size in zip(expected, values.shape[1:], strict=True))
    exported(preprocess).save(tmp_path / "preprocess.keras")
    model = keras.saving.load_model(tmp_path / "preprocess.keras")
    assert model.input.dtype == dtype
    np.testing.assert_array_equal(values, model.predict(raw, verbose=0))


def test_grayscale_repeats_into_three_equal_channels() -> None:
    preprocess = Preprocess.resolve(Preprocessing(), source((28, 28, 3)), dataset((28, 28)))
    values = preprocess.apply(np.full((1, 28, 28), 51, np.uint8))
    assert values.shape == (1, 28, 28, 3)
    np.testing.assert_allclose(values, 0.2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(None, None, 3), (8, 8, 3)])
def test_a_source_of_whole_numbers_gets_rounded_pictures_in_training_and_export(
    shape: Sequence[int | None], tmp_path: Path
) -> None:
    preprocess = Preprocess.resolve(Preprocessing(), source((8, 8, 3), dtype="uint8"), dataset(shape))
    raw = np.stack(pictures(2, *[side or 13 for side in shape]))
    values = preprocess.apply(raw)
    resized = keras.ops.image.resize(raw.astype(np.float32), (8, 8))
    np.testing.assert_array_equal(values, np.floor(resized + 0.5))
    exported(preprocess).save(tmp_path / "preprocess.keras")
    model = keras.saving.load_model(tmp_path / "preprocess.keras")
    np.testing.assert_array_equal(model.predict(raw, verbose=0), values)
    np.testing.assert_array_equal(model(raw), values)
    assert model.layers[-2].output.dtype == "uint8"


def test_whole_numbers_are_given_to_the_source_in_its_own_type() -> None:
    preprocess = Preprocess.resolve(Preprocessing(), source((5,), dtype="int32"), dataset((5,), "int64"))
    raw = np.array([[0, -1, 2, 300, 70_000]])
    np.testing.assert_array_equal(preprocess.apply(raw), raw)
    np.testing.assert_array_equal(exported(preprocess)(raw), raw)
    assert [layer.dtype for layer in preprocess.layers()] == ["int32"]


# === What is chosen ===


@pytest.mark.parametrize(
    ("wanted", "registered", "first_layers", "dtype", "value_range", "chosen"),
    [
        ("none", "zero_to_one", [], "uint8", (0, 255), "none"),
        (None, "minus_one_to_one", [], "uint8", (0, 255), "minus_one_to_one"),
        (None, "zero_to_one", [], "float32", (0, 1), "none"),
        (None, "zero_to_one", [], "float32", (0, 255), "zero_to_one"),
        (None, None, ["InputLayer", "Rescaling", "Normalization"], "uint8", (0, 255), "none"),
        (None, None, ["InputLayer", "TrueDivide", "Subtract", "Conv2D"], "uint8", (0, 255), "none"),
        (None, None, ["InputLayer", "Conv2D", "Rescaling"], "uint8", (0, 255), "zero_to_one"),
        (None, None, [], "uint8", (0, 255), "zero_to_one"),
        (None, None, [], "uint8", (0, 1), "none"),
        (None, None, [], "float32", (0, 16), "none"),
    ],
)
def test_rescale_follows_job_then_source_then_data(
    *,
    wanted: Rescale | None,
    registered: Rescale | None,
    first_layers: list[str],
    dtype: str,
    value_range: tuple[float, float],
    chosen: Rescale,
) -> None:
    model = source((8, 8, 3), rescale=registered, layers=[(name, [None, 8, 8, 3]) for name in first_layers])
    plan = Preprocess.resolve(Preprocessing(rescale=wanted), model, dataset((8, 8, 3), dtype, value_range))
    assert plan.rescale == chosen


@pytest.mark.parametrize("shape", [(None, None, 3), (200, 300, 3)])
def test_a_source_that_resizes_first_sets_the_size(shape: Sequence[int | None]) -> None:
    model = source((None, None, 3), layers=[("InputLayer", [None, None, None, 3]), ("Resizing", [None, 96, 64, 3])])
    plan = Preprocess.resolve(Preprocessing(), model, dataset(shape))
    assert plan.image_size == (96, 64)


def test_images_of_one_size_keep_it_where_the_source_takes_any_and_the_exported_model_takes_any_too() -> None:
    plan = Preprocess.resolve(Preprocessing(), source((None, None, 3)), dataset((20, 15, 3)))
    assert plan.output_shape == (20, 15, 3)
    assert plan.input_shape == (None, None, 3)
    model = exported(plan)
    for raw in (np.stack(pictures(2, 20, 15, 3)), np.stack(pictures(2, 33, 40, 3))):
        np.testing.assert_array_equal(plan.apply(raw), model.predict(raw, verbose=0))
    raw = np.stack(pictures(2, 20, 15, 3))
    np.testing.assert_array_equal(plan.apply(raw), raw.astype(np.float32) * np.float32(1 / 255))


def test_arrays_of_the_right_size_are_not_resized() -> None:
    plan = Preprocess.resolve(Preprocessing(), source((None, None, 1)), dataset((28, 28), "float32"))
    assert plan.image_size is None
    assert plan.input_shape == (28, 28)
    assert plan.output_shape == (28, 28, 1)


# === What is refused ===


@pytest.mark.parametrize(
    ("expected", "dtype", "given", "wanted", "error", "says"),
    [
        ((None, None, 3), "float32", (None, 120, 3), {}, UserError, "image_size"),
        ((784,), "float32", (None, None, 1), {}, UserError, "image_size"),
        ((224, 224, 3), "float32", (None, None, 3), {"image_size": (160, 160)}, UserError, r"\(224, 224\) only"),
        ((784,), "float32", (784,), {"image_size": (28, 28)}, UserError, "for pictures"),
        ((28, 28, 1), "float32", (28, 28, 3), {}, DataError, "grayscale"),
        ((28, 28, 3), "float32", (28, 28, 4), {}, DataError, "3 channels"),
        ((3, 224, 224), "float32", (224, 224, 3), {}, DataError, "224 channels"),
        ((784,), "float32", (64,), {}, DataError, r"\(784\).*\(64\)"),
        ((None, 4), "float32", (7, 2), {}, DataError, r"\(any, 4\).*\(7, 2\)"),
        ((8,), "int32", (8,), {"rescale": "zero_to_one"}, UserError, "whole numbers"),
        ((784,), "float32", (28, 28), TORCH, UserError, r"pictures with 3 channels.*\(784\)"),
        ((28, 28, 1), "float32", (28, 28, 1), CAFFE, UserError, r"pictures with 3 channels.*\(28, 28, 1\)"),
        ((16, 16, 3), "float32", (768,), TORCH, DataError, r"\(768\).*height, width, 3"),
    ],
)
def test_what_cannot_fit_is_refused_with_both_shapes(
    *,
    expected: Sequence[int | None],
    dtype: str,
    given: Sequence[int | None],
    wanted: dict[str, Any],
    error: type[UserError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        Preprocess.resolve(Preprocessing(**wanted), source(expected, dtype=dtype), dataset(given))


def test_floats_are_refused_for_a_source_of_whole_numbers() -> None:
    with pytest.raises(DataError, match="whole numbers"):
        Preprocess.resolve(Preprocessing(), source((8,), dtype="int32"), dataset((8,), "float32"))
