"""A result takes raw pictures, so a later job may fine-tune it on pictures of other sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from app.domain.model import ModelOptions
from app.domain.optimizers import Sgd
from app.domain.phases import Phase
from app.domain.spec import Preprocessing, Spec, resolve
from worker.engine import sources
from worker.engine.reporter import SilentReporter
from worker.engine.train import train

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 reads TensorFlow 2.21's variables in a way that numpy 2.4 warns about.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Check = Callable[..., Any]
PHASES = [Phase(epochs=1, unfreeze="all", optimizer=Sgd(type="sgd", learning_rate=0.01))]


def pictures(picture: Callable[..., bytes], *, mode: str, side: int) -> dict[str, bytes]:
    return {
        f"{name}/{seed}.png": picture(seed + 100 * (name == "dog"), size=(side + seed, side), mode=mode)
        for name in ("cat", "dog")
        for seed in range(6)
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pixels = keras.Input((None, None, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(pixels))
    keras.Model(pixels, keras.layers.Dense(5)(features)).save(tmp_path / "source.keras")
    sources.register(tmp_path / "source.keras", tmp_path / "source", options=ModelOptions(), max_parameters=10_000)
    return tmp_path / "source"


def test_a_downloaded_result_can_be_fine_tuned_on_grayscale_pictures_of_other_sizes(
    source: Path, make_zip: Callable[..., Path], check: Check, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    spec = Spec(schedule=PHASES, batch_size=4, preprocessing=Preprocessing(image_size=(16, 12)))
    _, _, data = check(make_zip(pictures(picture, mode="RGB", side=20)), name="first")
    train(resolve(spec, seed=1), source, data, tmp_path / "one", SilentReporter())

    download = tmp_path / "one" / "results" / "model.keras"
    info = sources.register(download, tmp_path / "again", options=ModelOptions(), max_parameters=10_000)
    assert (info.input_dtype, info.input_shape) == ("uint8", [None, None, None, 3])
    _, _, data = check(make_zip(pictures(picture, mode="L", side=31)), name="second")
    plain = Spec(schedule=PHASES, batch_size=4)
    # Training compares the exported model's predictions with the trained one's, so it would fail if they differed.
    train(resolve(plain, seed=1), tmp_path / "again", data, tmp_path / "two", SilentReporter())

    model = keras.saving.load_model(tmp_path / "two" / "results" / "model.keras")
    assert model.input.dtype == "uint8"
    assert model.input.shape == (None, None, None, 1)
    assert model.predict(np.zeros((2, 50, 40, 1), np.uint8), verbose=0).shape == (2, 1)
