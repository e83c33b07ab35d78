"""Probes of sources, and what plans add to their tables."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.dataset import SPLITS, DatasetInfo, SplitInfo
from app.domain.head import Head
from app.domain.head_rows import head_rows, outputs
from app.domain.model import ModelOptions

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def pictures() -> Any:
    """A source of pictures of any size, with a model inside."""
    import keras
    from keras import layers

    inner = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(8, 3, strides=2, padding="same"), layers.BatchNormalization()],
        name="inner",
    )
    raw = keras.Input((None, None, 3))
    features = layers.Conv2D(4, 1, name="features")(inner(raw))
    pooled = layers.GlobalAveragePooling2D(name="pooled")(features)
    return keras.Model(raw, layers.Dense(5, name="top")(pooled))


def test_a_probe_times_passes_and_changes_nothing(pictures: Any) -> None:
    from worker.engine import probe, sources
    from worker.engine.surgery import layer_table

    before = sources.digest(pictures)
    found = probe.measure(pictures, layer_table(pictures))
    assert found is not None
    assert found.device == "cpu"
    assert found.input_shape == [128, 128, 3]
    assert 0 < found.forward_seconds < found.training_seconds
    assert sources.digest(pictures) == before


def test_sizes_of_layers_are_told_for_a_shape(pictures: Any) -> None:
    from worker.engine import probe

    numbers = probe.output_numbers(pictures, [32, 16, 3])
    assert numbers == [32 * 16 * 3, 16 * 8 * 8, 16 * 8 * 8, 16 * 8 * 4, 4, 5]


def test_a_model_that_is_too_large_is_not_timed(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engine import probe
    from worker.engine.surgery import layer_table

    monkeypatch.setattr(probe, "MAX_PARAMETERS", 100)
    assert probe.measure(pictures, layer_table(pictures)) is None


def test_a_model_that_cannot_be_timed_says_why_and_is_registered(
    pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from worker.engine import probe, sources

    def fail(*_: object) -> None:
        message = "no gradient registered"
        raise LookupError(message)

    monkeypatch.setattr(probe, "_gradients", fail)
    pictures.save(tmp_path / "m.keras")
    info = sources.register(tmp_path / "m.keras", tmp_path / "c", options=ModelOptions(), max_parameters=10**6)
    assert info.probe is None
    assert "no gradient registered" in capfd.readouterr().err


def test_registration_tells_the_probe_and_the_canonical_folder_does_not(pictures: Any, tmp_path: Path) -> None:
    from worker.engine import canonical, sources

    pictures.save(tmp_path / "m.keras")
    info = sources.register(tmp_path / "m.keras", tmp_path / "c", options=ModelOptions(), max_parameters=10**6)
    assert info.probe is not None
    assert canonical.read(tmp_path / "c")[2] == info.model_copy(update={"probe": None})


HEADS = [
    [],
    [{"type": "global_max_pooling"}, {"type": "dense", "units": 7}, {"type": "dense", "units": 6}],
    [{"type": "dropout", "rate": 0.5}, {"type": "batch_normalization"}, {"type": "layer_normalization"}],
    [{"type": "flatten"}, {"type": "dropout", "rate": 0.0}, {"type": "activation", "activation": "relu"}],
]


@pytest.mark.parametrize("layers", HEADS)
@pytest.mark.parametrize("cut", ["conv", "features"])
@pytest.mark.parametrize("task", ["single_label", "regression"])
def test_the_rows_of_a_head_are_those_of_the_layers_that_the_engine_builds(
    layers: list[dict[str, Any]], cut: str, task: Any
) -> None:
    import keras

    from worker.engine.surgery import attach_head, layer_table

    tensor = raw = keras.Input((4, 4, 2))
    for layer in (
        keras.layers.Conv2D(3, 2, name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(4, name="features"),
        keras.layers.Dense(1, name="output"),
    ):
        tensor = layer(tensor)
    model = keras.Model(raw, tensor)
    backbone = keras.Model(model.inputs[0], model.get_layer(cut).output)
    head, rows = Head.model_validate({"layers": layers}), layer_table(backbone)
    data = _data(task)
    built = layer_table(attach_head(backbone, head, task=task, outputs=outputs(data), seed=1))[len(rows) :]
    told = head_rows(rows, rows[-1], head, data, backbone=rows)
    ignored = {"inputs", "legal_cut", "illegal_because"}
    assert [row.model_dump(exclude=ignored) for row in told] == [row.model_dump(exclude=ignored) for row in built]


def _data(task: Any) -> DatasetInfo:
    return DatasetInfo(
        kind="arrays",
        task=task,
        example_shape=[4, 4, 2],
        dtype="float32",
        value_range=(0, 1),
        classes=["a", "b", "c"] if task == "single_label" else None,
        targets=2 if task == "regression" else 1,
        splits={name: SplitInfo(examples=1) for name in SPLITS},
        digest="0" * 64,
    )
