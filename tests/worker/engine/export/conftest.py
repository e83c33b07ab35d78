"""A job on pictures of different sizes, trained once, with everything that can be exported."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.domain.dataset import DatasetOptions
from app.domain.exports import ExportFormat
from app.domain.spec import Spec, resolve

ALL: list[ExportFormat] = ["saved_model", "litert", "litert_int8", "onnx"]
SIZE = (12, 10)


@dataclass
class PictureJob:
    """What the job left, and its test split."""

    trained: Any
    data: Path
    workdir: Path
    reporter: Any

    @property
    def results(self) -> Path:
        return Path(self.trained.results)

    @property
    def test(self) -> Any:
        from worker.engine.data import open_dataset

        return open_dataset(self.data).split("test")

    def expected(self, pictures: list[np.ndarray]) -> np.ndarray:
        """What `model.keras` predicts, picture by picture."""
        import keras

        model = keras.saving.load_model(self.results / "model.keras")
        return np.concatenate([np.asarray(model(picture[None], training=False)) for picture in pictures])


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canonical dataset: 120 colour pictures of many sizes, three classes that differ in colour."""
    from worker.engine import data

    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    with zipfile.ZipFile(folder / "p.zip", "w") as archive:
        for index in range(120):
            kind = index % 3
            values = random.integers(0, 160, (*random.integers(9, 20, 2), 3))
            values[..., kind] += 90
            file = io.BytesIO()
            Image.fromarray(values.clip(0, 255).astype("uint8")).save(file, "PNG")
            archive.writestr(f"{('red', 'green', 'blue')[kind]}/{index}.png", file.getvalue())
    data.validate(folder / "p.zip", folder / "canonical", options=DatasetOptions(), max_unpacked_bytes=2**26)
    return folder / "canonical"


@pytest.fixture(scope="session")
def picture_source(store_source: Callable[..., Path]) -> Path:
    """An untrained convolutional net for pictures of any size, with batch normalization."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, None, 3), name="picture")
    tensor = layers.Conv2D(8, 3, name="conv")(inputs)
    tensor = layers.BatchNormalization(name="norm")(tensor)
    tensor = layers.ReLU(name="relu")(tensor)
    tensor = layers.GlobalAveragePooling2D(name="pool")(tensor)
    outputs = layers.Dense(4, activation="softmax", name="old")(tensor)
    return store_source(keras.Model(inputs, outputs, name="net"), rescale="minus_one_to_one")


@pytest.fixture(scope="session")
def job(pictures: Path, picture_source: Path, recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> PictureJob:
    from worker.engine.train import train

    spec = Spec(
        schedule=[
            {"name": "head", "unfreeze": "none", "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.05}},
            {"name": "all", "unfreeze": "all", "epochs": 8, "optimizer": {"type": "adam", "learning_rate": 0.02}},
        ],
        head={"layers": [{"type": "dropout", "rate": 0.1}]},
        preprocessing={"image_size": SIZE},
        batch_size=16,
        exports=ALL,
    )
    workdir, reporter = tmp_path_factory.mktemp("job"), recorder()
    trained = train(resolve(spec, seed=5), picture_source, pictures, workdir, reporter)
    return PictureJob(trained, pictures, workdir, reporter)
