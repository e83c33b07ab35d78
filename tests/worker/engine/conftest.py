"""Fixtures for the engine: small sources and datasets in canonical form, and a reporter that remembers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetOptions
from app.domain.progress import Progress
from worker.engine.reporter import TrainingStopped

MIB = 2**20


class RecordingReporter:
    """Keeps all progress; stops the run at the check after `stop_after` of them, counted where `stop_in` holds."""

    def __init__(self, *, stop_after: int | None = None, stop_in: str = "training") -> None:
        self.progress: list[Any] = []
        self.checks: dict[str, int] = {}
        self._stop_after = stop_after
        self._stop_in = stop_in
        self.stage = "none"

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)
        if progress.type == "stage":
            self.stage = progress.stage

    def check(self) -> None:
        self.checks[self.stage] = self.checks.get(self.stage, 0) + 1
        if self._stop_after is not None and self.checks.get(self._stop_in, 0) > self._stop_after:
            raise TrainingStopped

    def of(self, kind: str) -> list[Any]:
        return [progress for progress in self.progress if progress.type == kind]


@pytest.fixture(scope="session")
def recorder() -> type[RecordingReporter]:
    return RecordingReporter


@pytest.fixture(scope="session")
def store_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a Keras model as a canonical folder."""

    def store(model: Any, **known: Any) -> Path:
        from worker.engine import sources

        folder = tmp_path_factory.mktemp("source") / "canonical"
        sources.write_canonical(model, folder, **known)
        return folder

    return store


@pytest.fixture(scope="session")
def store_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Validates arrays, named as in an npz file, to a canonical folder; keywords in `options` as in the API."""

    def store(options: dict[str, Any] | None = None, **arrays: Any) -> Path:
        from worker.engine import data

        folder = tmp_path_factory.mktemp("dataset")
        np.savez(folder / "arrays.npz", **arrays)
        chosen = DatasetOptions(**(options or {}))
        data.validate(folder / "arrays.npz", folder / "canonical", options=chosen, max_unpacked_bytes=64 * MIB)
        return folder / "canonical"

    return store


def blobs(*, classes: int, examples: int, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clouds of points, one for each class, that overlap a little: x float32, y int64."""
    random = np.random.default_rng(seed)
    centres = random.normal(scale=1.5, size=(classes, features))
    labels = np.arange(examples) % classes
    return (centres[labels] + random.normal(size=(examples, features))).astype("float32"), labels


@pytest.fixture(scope="session", name="blobs")
def _blobs() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return blobs


@pytest.fixture(scope="session")
def build_mlp() -> Callable[..., Any]:
    """Untrained MLPs `features -> 8 -> 8 -> classes` with a name and fixed weights."""

    def build(*, features: int = 6, classes: int = 3, seed: int = 7) -> Any:
        import keras

        keras.utils.set_random_seed(seed)
        inputs = keras.Input((features,), name="features")
        hidden = keras.layers.Dense(8, activation="relu", name="hidden_1")(inputs)
        hidden = keras.layers.Dense(8, activation="relu", name="hidden_2")(hidden)
        return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax", name="old")(hidden), name="mlp")

    return build


@pytest.fixture(scope="session")
def source(store_source: Callable[..., Path], build_mlp: Callable[..., Any]) -> Path:
    """An MLP of 6 features and 3 classes."""
    return store_source(build_mlp(), rescale="none")


@pytest.fixture(scope="session")
def binary(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    """120 points of two classes."""
    x, y = blobs(classes=2, examples=120)
    return store_dataset({"class_names": ["hen", "duck"]}, x=x, y=y)
