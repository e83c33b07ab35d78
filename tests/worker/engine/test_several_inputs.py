"""Models with several inputs: registered, cut, trained, exported, and asked with raw arrays by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import CutError, DataError, SourceError, UserError
from app.domain.model import ModelOptions
from app.domain.spec import Spec, resolve

pytestmark = pytest.mark.tensorflow

SCHEDULE = [
    {"unfreeze": unfreeze, "epochs": 3, "optimizer": {"type": "adam", "learning_rate": 0.02}}
    for unfreeze in ("none", "all")
]


def siamese() -> Any:
    """Two pictures through one encoder; whether they are alike."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    encoder = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Flatten(name="flat")],
        name="encoder",
    )
    left, right = keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    apart = layers.Subtract(name="apart")([encoder(left), encoder(right)])
    hidden = layers.Dense(8, activation="relu", name="hidden")(layers.Multiply(name="squared")([apart, apart]))
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid", name="old")(hidden), name="siamese")


def two_branches() -> Any:
    """A picture and some numbers about it."""
    import keras

    keras.utils.set_random_seed(2)
    layers = keras.layers
    photo, facts = keras.Input((8, 8, 3), name="photo"), keras.Input((5,), name="facts")
    seen = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, activation="relu", name="conv")(photo))
    told = layers.Dense(4, activation="relu", name="told")(facts)
    both = layers.Dense(6, activation="relu", name="joint")(layers.Concatenate(name="both")([seen, told]))
    return keras.Model([photo, facts], layers.Dense(3, activation="softmax", name="old")(both), name="two_branches")


def pairs(count: int = 120) -> dict[str, np.ndarray]:
    """Pictures that are the same but for noise, or not."""
    random, labels = np.random.default_rng(0), np.arange(count) % 2
    left = random.integers(0, 256, (count, 8, 8))
    other = random.integers(0, 256, (count, 8, 8))
    near = np.clip(left + random.integers(-9, 10, left.shape), 0, 255)
    right = np.where(labels[:, None, None] == 1, near, other)
    return {"x__left": left.astype("uint8"), "x__right": right.astype("uint8"), "y": labels}


def described(count: int = 120) -> dict[str, np.ndarray]:
    """Of three classes, of which the numbers tell one apart and the brightness another."""
    random, labels = np.random.default_rng(0), np.arange(count) % 3
    photo = random.integers(0, 128, (count, 12, 10, 3)) + 100 * (labels == 1)[:, None, None, None]
    facts = random.normal(size=(count, 5)) + 3 * (labels == 2)[:, None]
    return {"x__photo": photo.astype("uint8"), "x__facts": facts.astype("float32"), "y": labels}


def register(model: Any, folder: Path) -> Path:
    from worker.engine import sources

    model.save(folder / "upload.keras")
    sources.register(folder / "upload.keras", folder / "source", options=ModelOptions(), max_parameters=10**6)
    return folder / "source"


def train(source: Path, data: Path, workdir: Path, reporter: Any, **fields: Any) -> Any:
    from worker.engine.train import train

    spec = Spec.model_validate({"schedule": SCHEDULE, "batch_size": 16} | fields)
    return train(resolve(spec, seed=3), source, data, workdir, reporter)


def raw_test_split(arrays: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The examples of the test split as they were before they were stored, found by their values."""
    from worker.engine.data import open_dataset

    test = open_dataset(folder).split("test")
    names = [name for name in arrays if name != "y"]
    rows = {
        b"".join(arrays[name][index].tobytes() for name in sorted(names)): index for index in range(len(arrays["y"]))
    }
    found = [
        rows[b"".join(test.raw(index)[name[3:]].tobytes() for name in sorted(names))] for index in range(len(test))
    ]
    return {name[3:]: arrays[name][found] for name in names}, arrays["y"][found]


@pytest.mark.parametrize(("build", "make"), [(siamese, pairs), (two_branches, described)])
def test_a_model_with_two_inputs_goes_the_whole_way(
    build: Callable[[], Any], make: Any, store_dataset: Any, tmp_path: Path, recorder: Any
) -> None:
    import keras

    arrays = make()
    source, data = register(build(), tmp_path), store_dataset(**arrays)
    result = train(source, data, tmp_path / "work", recorder())
    assert [proof.held for proof in (phase.proof for phase in result.report.phases)] == [True, True]

    model = keras.saving.load_model(result.results / "model.keras")
    names = [name[3:] for name in arrays if name != "y"]
    assert [tensor.name for tensor in model.inputs] == names
    raw, labels = raw_test_split(arrays, data)
    outputs = model.predict(raw, verbose=0)
    np.testing.assert_allclose(model.predict(list(raw.values()), verbose=0), outputs, rtol=1e-5)
    predicted = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    assert result.report.test.accuracy.value == pytest.approx(np.mean(predicted == labels))
    assert [each.name for each in result.info.inputs] == names

    again = train(result.canonical, data, tmp_path / "again", recorder(), cut={"drop_last": 1})
    assert [each.name for each in again.info.inputs] == names


def test_cached_features_of_two_inputs_give_the_same_weights(store_dataset: Any, tmp_path: Path, recorder: Any) -> None:
    source, data = register(two_branches(), tmp_path), store_dataset(**described())
    runs = {
        cache: train(source, data, tmp_path / cache, recorder(), schedule=SCHEDULE[:1], cache=cache)
        for cache in ("require", "off")
    }
    assert [result.report.phases[0].cache.used for result in runs.values()] == [True, False]
    assert runs["require"].info.digest == runs["off"].info.digest


def test_what_training_sees_is_what_the_exported_model_computes_for_each_input(
    store_dataset: Any, tmp_path: Path
) -> None:
    from worker.engine import sources
    from worker.engine.data import open_dataset, resolve_preprocess

    arrays = described()
    source = sources.load(register(two_branches(), tmp_path))
    dataset = open_dataset(store_dataset(**arrays))
    plan = resolve_preprocess(Spec().preprocessing, source.info, dataset.info, used=["photo", "facts"])
    (photo, facts), _ = next(iter(dataset.split("train").batches(8, preprocess=plan)))
    assert photo.shape == (8, 8, 8, 3)  # resized, and scaled as 8-bit values are
    assert 0 <= photo.min() < photo.max() <= 1
    raw = np.stack([dataset.split("train").raw(index)["facts"][0] for index in range(8)])
    np.testing.assert_array_equal(facts, raw)


def test_a_cut_in_one_branch_keeps_only_the_input_of_that_branch(
    store_dataset: Any, tmp_path: Path, recorder: Any
) -> None:
    import keras

    source, data = register(two_branches(), tmp_path), store_dataset(**described())
    result = train(source, data, tmp_path / "work", recorder(), cut={"layer": "told"})
    model = keras.saving.load_model(result.results / "model.keras")
    assert [tensor.name for tensor in model.inputs] == ["facts"]
    assert model.predict(np.zeros((2, 5), "float32"), verbose=0).shape == (2, 3)


def test_counted_cuts_end_where_the_branches_have_met(tmp_path: Path) -> None:
    from app.domain.spec import Spec
    from worker.engine import sources, surgery

    source = sources.load(register(two_branches(), tmp_path))
    legal = [row.path for row in source.info.layers if row.legal_cut]
    assert legal == ["conv", "pool", "told", "both", "joint", "old"]
    assert len(surgery.cut_at(source, Spec.model_validate({"cut": {"drop_last": 1}}).cut).inputs) == 2
    with pytest.raises(CutError, match=r"inside a branch.*drop_last 2 \(up to 'both'\)"):
        surgery.cut_at(source, Spec.model_validate({"cut": {"drop_last": 3}}).cut)


def test_splits_that_the_file_brings_stay_together_over_all_inputs(store_dataset: Any) -> None:
    from worker.engine.data import open_dataset

    left = np.arange(60, dtype="float32").reshape(30, 2)
    arrays = {}
    for split, rows in (("train", slice(0, 20)), ("val", slice(20, 25)), ("test", slice(25, 30))):
        arrays[f"x_{split}__left"] = left[rows]
        arrays[f"x_{split}__right"] = -left[rows, :1]
        arrays[f"y_{split}"] = (np.arange(30) % 2)[rows]
    dataset = open_dataset(store_dataset(**arrays))
    info = dataset.info
    assert [(each.name, each.example_shape, each.value_range) for each in info.inputs] == [
        ("left", [2], (0, 59)),
        ("right", [1], (-58, 0)),
    ]
    for name, first, count in (("train", 0, 20), ("validation", 20, 5), ("test", 25, 5)):
        split = dataset.split(name)
        rows = [split.raw(index) for index in range(len(split))]
        assert sorted(row["left"][0, 0] for row in rows) == [2.0 * index for index in range(first, first + count)]
        assert all(row["right"][0, 0] == -row["left"][0, 0] for row in rows)
        assert all(label == row["left"][0, 0] / 2 % 2 for row, label in zip(rows, split.labels, strict=True))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x__left": 30, "x__right": 29, "y": 30}, "'x__right' has 29 examples and 'y' 30 labels"),
        ({"x_train__a": 20, "x_test__a": 9, "x_train__b": 20, "y_train": 20, "y_test": 9}, "needs an array for each"),
        ({"x": 30, "x__b": 30, "y": 30}, "needs the name of an input"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(arrays: dict[str, int], told: str, store_dataset: Any) -> None:
    made = {name: np.arange(count) % 2 if name[0] == "y" else np.ones((count, 2)) for name, count in arrays.items()}
    with pytest.raises(DataError, match=told):
        store_dataset(**made)


def test_arrays_named_unlike_the_inputs_are_refused_with_both(
    store_dataset: Any, tmp_path: Path, recorder: Any
) -> None:
    source, arrays = register(siamese(), tmp_path), pairs()
    renamed = store_dataset(x__left=arrays["x__left"], x__other=arrays["x__right"], y=arrays["y"])
    with pytest.raises(DataError, match=r"takes the inputs 'left' \[8, 8, 1\], 'right'.*arrays for 'left', 'other'"):
        train(source, renamed, tmp_path / "work", recorder())
    with pytest.raises(DataError, match=r"2 inputs.*x__left, x__right and y"):
        train(source, store_dataset(x=arrays["x__left"], y=arrays["y"]), tmp_path / "work", recorder())
    with pytest.raises(UserError, match="augmentation is for examples that are one picture"):
        train(source, store_dataset(**arrays), tmp_path / "work", recorder(), augmentation=[{"type": "flip"}])


def test_several_outputs_are_refused_by_name(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((4,), name="x")
    outputs = [keras.layers.Dense(size, name=name)(inputs) for name, size in (("kind", 3), ("price", 1))]
    with pytest.raises(SourceError, match=r"2 outputs: 'kind' \[None, 3\], 'price' \[None, 1\]"):
        register(keras.Model(inputs, outputs), tmp_path)


def test_a_model_stored_before_there_could_be_several_inputs_still_loads(tmp_path: Path, build_mlp: Any) -> None:
    from worker.engine import sources

    folder = register(build_mlp(), tmp_path)
    stored = json.loads((folder / "source.json").read_text())
    assert [each["name"] for each in stored.pop("inputs")] == ["features"]
    (folder / "source.json").write_text(json.dumps(stored))
    assert sources.load(folder).info.inputs == []
