"""Raw rows through Keras layers: the very vectors that the training saw, also in a process without our code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.engine.data.encoding import CategoryFit, Encoding, NumberFit

pytestmark = pytest.mark.tensorflow

ROWS = 200

PLAIN_LOAD = """
import sys
import keras, numpy, tensorflow as tf
model = keras.saving.load_model(sys.argv[1])
assert not any(name.partition(".")[0] in ("app", "worker", "thaw") for name in sys.modules)
stored = numpy.load(sys.argv[2])
rows = {name: tf.constant(stored[name]) for name in stored.files}
numpy.save(sys.argv[3], model.predict(rows, verbose=0))
"""


def encoding(*, standardize: bool = True) -> Encoding:
    return Encoding(
        numbers=[
            NumberFit(name="größe (cm)", median=1.5, mean=2.25, variance=3.3, flagged=True),
            NumberFit(name="km/h", median=-7.125, mean=0.1, variance=1e-3, flagged=False),
        ],
        categories=[
            CategoryFit(name="colour", vocabulary=["", "red", "white"], other=False),
            CategoryFit(name="place", vocabulary=["[unknown]", "Zürich"], other=True),
        ],
        standardize=standardize,
    )


def raw_rows() -> tuple[np.ndarray, list[tuple[np.ndarray, list[str]]]]:
    random = np.random.default_rng(0)
    numbers = random.normal(scale=50, size=(ROWS, 2)).astype("float32")
    numbers[random.random((ROWS, 2)) < 0.3] = np.nan
    colours, places = ["", "green", "red", "white"], ["Oslo", "Zürich", "[unknown]", ""]
    return numbers, [(random.integers(0, 4, ROWS), colours), (random.integers(0, 4, ROWS), places)]


def build(fitted: Encoding) -> Any:
    import keras

    from worker.engine.data import front

    inputs, vector = front.raw_inputs(fitted, fresh=lambda wish: wish)
    return keras.Model({tensor.name: tensor for tensor in inputs.values()}, vector)


def by_name(numbers: np.ndarray, categories: list[tuple[np.ndarray, list[str]]]) -> dict[str, np.ndarray]:
    return {
        "gro_e_cm": numbers[:, :1],
        "km_h": numbers[:, 1:],
        **{
            name: np.array(distinct, object)[codes][:, None]
            for name, (codes, distinct) in zip(("colour", "place"), categories, strict=True)
        },
    }


@pytest.mark.parametrize("standardize", [True, False])
def test_layers_and_numpy_give_the_same_bits(standardize: bool) -> None:
    fitted = encoding(standardize=standardize)
    numbers, categories = raw_rows()
    expected = fitted.apply(numbers, categories)
    assert expected.shape == (ROWS, len(fitted.features))
    received = np.asarray(build(fitted)(by_name(numbers, categories)))
    np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("pH", "pH"), ("citric acid", "citric_acid"), ("km/h", "km_h"), ("Élève", "Eleve"), ("a__b", "a__b"),
        ("2024", "column_2024"), ("_hidden", "hidden"), ("大きさ", "column"), ("%", "column"),
    ],
)  # fmt: skip
def test_inputs_are_named_like_columns_as_far_as_signatures_allow(column: str, name: str) -> None:
    from worker.engine.data import front

    assert front.input_name(column) == name


def test_vectors_mean_what_the_features_say() -> None:
    fitted = encoding()
    assert fitted.features == [
        "größe (cm)", "km/h", "größe (cm) is missing",
        "colour=(missing)", "colour=red", "colour=white",
        "place=(other)", "place=[unknown]", "place=Zürich",
    ]  # fmt: skip
    numbers = np.array([[np.nan, np.nan], [2.25, 0.1]], "float32")
    codes = [(np.array([0, 1]), ["green", ""]), (np.array([0, 1]), ["Zürich", "Oslo"])]
    first, second = fitted.apply(numbers, codes)
    np.testing.assert_allclose(first[0], (1.5 - 2.25) / 3.3**0.5, rtol=1e-6)
    assert first[2:].tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert second.tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0]


def test_a_saved_front_opens_without_our_code(tmp_path: Path) -> None:
    fitted = encoding()
    numbers, categories = raw_rows()
    build(fitted).save(tmp_path / "front.keras")
    rows = {
        name: values.astype("U") if values.dtype == object else values
        for name, values in by_name(numbers, categories).items()
    }
    np.savez(tmp_path / "rows.npz", **rows)
    files = [tmp_path / name for name in ("front.keras", "rows.npz", "out.npy")]
    subprocess.run([sys.executable, "-c", PLAIN_LOAD, *files], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(files[-1]), fitted.apply(numbers, categories))
