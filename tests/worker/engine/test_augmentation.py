"""Augmentation: what happens to training pictures, that it can be repeated, and what never sees it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetInfo
from app.domain.errors import UserError
from app.domain.spec import Rescale, Spec, resolve
from worker.engine.data.preprocess import Preprocess
from worker.engine.reporter import TrainingStopped

pytestmark = pytest.mark.tensorflow

SIZE = 32
FLIP = {"type": "flip", "mode": "horizontal"}
COLOR = {"type": "color", "brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "hue": 0.1}
EACH: list[dict[str, Any]] = [
    {"type": "flip", "mode": "both"},
    {"type": "crop", "scale": 0.5},
    {"type": "zoom", "factor": 0.3},
    {"type": "translation", "factor": 0.2},
    {"type": "rotation", "degrees": 30},
    COLOR,
    {"type": "mixup", "alpha": 1.0},
]


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    """As in every training process: operations without a deterministic kernel raise."""
    from worker.engine import runtime

    runtime.prepare(1)


def info(dtype: str = "uint8", value_range: tuple[float, float] = (0, 255), **fields: Any) -> DatasetInfo:
    fields = {"task": "single_label", "classes": ["a", "b", "c"], "example_shape": [SIZE, SIZE, 3]} | fields
    splits = {name: {"examples": 10 + number} for number, name in enumerate(("train", "validation", "test"))}
    return DatasetInfo(kind="arrays", dtype=dtype, value_range=value_range, splits=splits, digest="-", **fields)


def augmenter(*wishes: dict[str, Any], rescale: Rescale = "none", data: DatasetInfo | None = None) -> Any:
    from worker.engine.augmentation import augmenter as build
    from worker.engine.objective import Objective

    data = data or info()
    shape = tuple(size for size in data.example_shape if size is not None)
    preprocess = Preprocess(shape, data.dtype, shape, rescale)
    return build(Spec(augmentation=list(wishes)).augmentation, preprocess, data, Objective(data.task))


def pictures(count: int = 24, *, high: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, high, (count, SIZE, SIZE, 3)).astype("float32")


def changed(x: np.ndarray, *wishes: dict[str, Any], step: int = 1, **options: Any) -> np.ndarray:
    labels = np.zeros(len(x), "int32")
    return np.asarray(augmenter(*wishes, **options)(x, labels, order=(7, 0), step=step)[0])


def ramp(count: int = 24) -> np.ndarray:
    """Pictures whose values are the column: 0, 1, 2 and so on."""
    return np.broadcast_to(np.arange(SIZE, dtype="float32")[:, None], (count, SIZE, SIZE, 3)).copy()


def slopes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each picture in its middle: how values grow from left to right, and from top to bottom."""
    middle = x[:, SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4, 0]
    return np.diff(middle, axis=2).mean(axis=(1, 2)), np.diff(middle, axis=1).mean(axis=(1, 2))


# === What each change does ===


def test_a_flip_mirrors_some_pictures_and_leaves_the_others_as_they_are() -> None:
    x = pictures()
    y = changed(x, FLIP)
    mirrored = [np.array_equal(after, before[:, ::-1]) for before, after in zip(x, y, strict=True)]
    left = [np.array_equal(after, before) for before, after in zip(x, y, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert 0 < sum(mirrored) < len(x)


def test_flipping_both_ways_throws_the_coin_twice() -> None:
    x = pictures()
    ways = {
        (across, down)
        for before, after in zip(x, changed(x, {"type": "flip", "mode": "both"}), strict=True)
        for across in (1, -1)
        for down in (1, -1)
        if np.array_equal(after, before[::down, ::across])
    }
    assert len(ways) == 4


def test_a_rotation_turns_by_at_most_so_many_degrees_either_way() -> None:
    across, down = slopes(changed(ramp(), {"type": "rotation", "degrees": 30}))
    degrees = np.degrees(np.arctan2(down, across))
    assert np.hypot(across, down) == pytest.approx(1, abs=1e-4)
    assert np.abs(degrees).max() <= 30
    assert degrees.min() < -10
    assert degrees.max() > 10


def test_a_crop_shows_a_part_of_its_own_for_each_picture_and_nothing_from_outside() -> None:
    y = changed(ramp(64), {"type": "crop", "scale": 0.5})
    across, down = slopes(y)
    assert down == pytest.approx(0, abs=1e-5)
    assert across.min() >= 0.5 - 1e-5
    assert across.max() <= 1 + 1e-5
    assert across.min() < 0.6
    assert across.max() > 0.9
    first, last = y[:, 0, 0, 0], y[:, 0, -1, 0]
    assert last - first == pytest.approx(across * (SIZE - 1), abs=0.6)  # half a pixel is missing at either edge
    assert first.min() < 1
    assert last.max() > SIZE - 2


def test_zoom_and_translation_stay_within_their_factors() -> None:
    across, _ = slopes(changed(ramp(), {"type": "zoom", "factor": 0.3}))
    assert across.min() >= 0.7 - 1e-5
    assert across.max() <= 1.3 + 1e-5
    assert across.max() - across.min() > 0.2
    shifted = changed(ramp(), {"type": "translation", "factor": 0.2})[:, SIZE // 2, SIZE // 2, 0] - SIZE // 2
    assert np.abs(shifted).max() <= 0.2 * SIZE + 1e-4
    assert shifted.min() < -1
    assert shifted.max() > 1


def test_brightness_shifts_a_picture_by_a_part_of_the_range_of_its_values() -> None:
    x = 100 + pictures(high=55)
    shift = changed(x, {"type": "color", "brightness": 0.2}) - x
    assert np.ptp(shift.reshape(len(x), -1), axis=1) == pytest.approx(0, abs=1e-3)
    assert np.abs(shift).max() <= 0.2 * 255 + 1e-3
    assert np.abs(shift).max() > 0.1 * 255


def test_contrast_stretches_about_the_mean() -> None:
    x = 100 + pictures(high=55)
    factor = changed(x, {"type": "color", "contrast": 0.3}).std(axis=(1, 2)) / x.std(axis=(1, 2))
    assert np.ptp(factor, axis=1) == pytest.approx(0, abs=1e-3)
    assert factor.min() >= 0.7 - 1e-3
    assert factor.max() <= 1.3 + 1e-3
    assert np.ptp(factor) > 0.2


def test_saturation_and_hue_keep_what_they_do_not_name() -> None:
    x = pictures()
    for name, low_stays in (("saturation", False), ("hue", True)):
        y = changed(x, {"type": "color", name: 0.4})
        np.testing.assert_allclose(y.max(axis=-1), x.max(axis=-1), atol=0.01, err_msg=name)
        assert np.allclose(y.min(axis=-1), x.min(axis=-1), atol=0.01) == low_stays, name
        assert not np.allclose(x, y, atol=1)


def test_mixup_mixes_pictures_and_labels_in_the_same_parts() -> None:
    labels = np.arange(48) % 3
    x = np.broadcast_to(np.float32([10, 100, 200])[labels][:, None, None, None], (48, SIZE, SIZE, 3))
    mixed, parts = augmenter({"type": "mixup", "alpha": 1.0})(x, labels.astype("int32"), order=(7, 0), step=1)
    parts = np.asarray(parts)
    assert parts.shape == (48, 3)
    assert parts.sum(axis=1) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(np.asarray(mixed)[:, 0, 0, 0], parts @ np.float32([10, 100, 200]), rtol=1e-5)
    assert sum(1 for part in parts if 0.05 < part.max() < 0.95) > 10


def test_the_smallest_alpha_leaves_most_pictures_as_good_as_whole() -> None:
    x, labels = pictures(96), np.arange(96, dtype="int32") % 3
    _, parts = augmenter({"type": "mixup", "alpha": 0.1})(x, labels, order=(7, 0), step=1)
    largest = np.asarray(parts).max(axis=1)
    assert (
        np.mean(largest > 0.99) > 0.6
    )  # Beta(0.1, 0.1) has 0.64 of its mass that near to 0 or 1, and equal labels mix
    assert np.mean(largest == 0.5) < 0.02


# === Ranges ===


@pytest.mark.parametrize("rescale", ["zero_to_one", "minus_one_to_one"])
def test_the_same_wishes_mean_the_same_pictures_whatever_range_the_source_wants(rescale: Rescale) -> None:
    x, wishes = pictures(), EACH[:-1]
    raw = changed(x, *wishes)
    expected = Preprocess((SIZE, SIZE, 3), "uint8", (SIZE, SIZE, 3), rescale).apply(raw)
    # TensorFlow makes one multiplication of the two that scale back and forth.
    np.testing.assert_allclose(changed(x, *wishes, rescale=rescale), expected, atol=1e-6)
    low = {"zero_to_one": 0, "minus_one_to_one": -1}[rescale]
    assert low <= expected.min() < expected.max() <= 1
    assert raw.min() >= 0
    assert raw.max() <= 255


@pytest.mark.parametrize("rescale", ["zero_to_one", "minus_one_to_one"])
def test_a_picture_that_is_not_changed_is_bit_for_bit_what_validation_would_see(rescale: Rescale) -> None:
    x = pictures().round()
    plain = Preprocess((SIZE, SIZE, 3), "uint8", (SIZE, SIZE, 3), rescale).apply(x.astype("uint8"))
    mirrored = {row.tobytes() for row in plain[:, :, ::-1]}
    y = changed(x, FLIP, rescale=rescale)
    assert {row.tobytes() for row in y} <= mirrored | {row.tobytes() for row in plain}


def test_colours_of_normalized_floats_stay_in_the_range_of_the_dataset() -> None:
    low, high = -2.1, 2.64  # ImageNet's pictures, each channel with mean 0 and deviation 1
    x = (low + pictures(high=1) * (high - low)).astype("float32")
    y = changed(x, COLOR, data=info("float32", (low, high)))
    assert y.min() >= low - 1e-5
    assert y.max() <= high + 1e-5
    middle = np.zeros_like(x)
    shift = changed(middle, {"type": "color", "brightness": 0.2}, data=info("float32", (low, high)))
    assert 0.1 * (high - low) < np.abs(shift).max() <= 0.2 * (high - low) + 1e-5


def test_pictures_for_a_source_of_vectors_are_changed_before_they_are_laid_out() -> None:
    from worker.engine.augmentation import augmenter as build
    from worker.engine.objective import Objective

    x = pictures()
    preprocess = Preprocess((SIZE, SIZE, 3), "uint8", (SIZE * SIZE * 3,))
    flat = build(Spec(augmentation=[FLIP]).augmentation, preprocess, info(), Objective("single_label"))
    assert flat is not None
    y, _ = flat(x, np.zeros(len(x), "int32"), order=(7, 0), step=1)
    np.testing.assert_array_equal(np.asarray(y).reshape(x.shape), changed(x, FLIP))


# === Again and again ===


@pytest.mark.parametrize("wish", EACH, ids=lambda wish: str(wish["type"]))
def test_what_happens_is_a_function_of_seed_epoch_and_step(wish: dict[str, Any]) -> None:
    x, labels = pictures(), np.arange(24, dtype="int32") % 3
    one, other = augmenter(wish), augmenter(wish)

    def after(build: Any, order: tuple[int, int], step: int) -> tuple[bytes, bytes]:
        mixed, parts = build(x, labels, order=order, step=step)
        return np.asarray(mixed).tobytes(), np.asarray(parts).tobytes()

    places = [((7, 0), 1), ((7, 0), 2), ((7, 1), 1), ((8, 0), 1)]
    first = [after(one, order, step) for order, step in places]
    assert len({pixels for pixels, _ in first}) == len(places)
    assert [after(other, order, step) for order, step in reversed(places)] == first[::-1]


def test_an_epoch_that_goes_on_after_some_steps_has_the_batches_it_would_have_had() -> None:
    import keras
    import tensorflow as tf

    from worker.engine import execution
    from worker.engine.data.stored import FixedStorage, Split

    images = pictures(40)
    split = Split(
        "train", FixedStorage(images.ravel(), images.shape[1:]), np.arange(40), np.arange(40, dtype="int32") % 3
    )
    wishes = augmenter(*EACH)
    run: Any = SimpleNamespace(
        train=split, batch_size=16, steps_per_epoch=lambda _: 3, preprocess=wishes.resize, augmenter=wishes
    )
    keep: Any = lambda x, y: tf.concat([tf.reshape(x, -1), tf.reshape(y, -1)], 0)  # noqa: E731

    def batches() -> Any:
        return execution.on_batches(run, keep, examples_per_step=16)

    whole = {number: np.asarray(batch) for number, batch in batches().train((7, 3))}
    keras.utils.set_random_seed(99)
    rest = {number: np.asarray(batch) for number, batch in batches().train((7, 3), done=1)}
    assert list(whole) == [1, 2, 3]
    assert list(rest) == [2, 3]
    assert all(np.array_equal(whole[number], batch) for number, batch in rest.items())


# === Whole jobs ===


@pytest.fixture(scope="module")
def source(store_source: Callable[..., Path]) -> Path:
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    stack = [layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"), layers.GlobalAveragePooling2D(name="pool")]
    model = keras.Sequential([keras.Input((16, 16, 3)), *stack, layers.Dense(2, activation="softmax", name="old")])
    return store_source(model, rescale="minus_one_to_one")


@pytest.fixture(scope="module")
def photos(store_dataset: Callable[..., Path]) -> Path:
    """Of two classes, the second one brighter."""
    random, labels = np.random.default_rng(0), np.arange(80) % 2
    x = random.integers(0, 180, (80, 16, 16, 3)) + 60 * labels[:, None, None, None]
    return store_dataset(x=x.astype("uint8"), y=labels)


def train(source: Path, data: Path, workdir: Path, reporter: Any, *wishes: dict[str, Any]) -> Any:
    from worker.engine.train import train

    phases = [{"unfreeze": unfreeze, "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.01}}
              for unfreeze in ("none", "all")]  # fmt: skip
    spec = Spec.model_validate({"schedule": phases, "batch_size": 16, "augmentation": list(wishes)})
    return train(resolve(spec, seed=5), source, data, workdir, reporter)


def test_a_job_that_is_stopped_again_and_again_sees_the_same_pictures(
    source: Path, photos: Path, tmp_path: Path, recorder: Any
) -> None:
    whole = train(source, photos, tmp_path / "whole", recorder(), *EACH)
    stops = (2, 3, 5)  # looks for a wish to stop, after which each attempt stops: in the middle of an epoch
    for after in stops:
        with pytest.raises(TrainingStopped):
            train(source, photos, tmp_path / "stopped", recorder(stop_after=after), *EACH)
    last = recorder()
    result = train(source, photos, tmp_path / "stopped", last, *EACH)
    assert [each.fidelity for each in last.of("resumed")] == ["exact"]
    assert result.info.digest == whole.info.digest


def test_a_job_trains_on_changed_pictures_and_is_measured_on_plain_ones(
    source: Path, photos: Path, tmp_path: Path, recorder: Any
) -> None:
    import keras

    from worker.engine.data import open_dataset

    again, plain = (recorder() for _ in range(2))
    results = {
        name: train(source, photos, tmp_path / name, reporter, *wishes)
        for name, reporter, wishes in [("one", recorder(), EACH), ("again", again, EACH), ("plain", plain, [])]
    }
    assert {phase.cache.reason for phase in results["one"].report.phases} == {
        "augmentation changes the examples in every epoch",
        "no frozen layer with weights stands below what trains or draws at random",
    }
    digests = {name: result.info.digest for name, result in results.items()}
    assert digests["one"] == digests["again"] != digests["plain"]

    model = keras.saving.load_model(results["one"].results / "model.keras")
    assert not [layer.name for layer in model.layers if "Random" in type(layer).__name__]
    validation = open_dataset(photos).split("validation")
    raw = np.stack([validation.example(index) for index in range(len(validation))])
    right = (model.predict(raw, verbose=0)[:, 0] > 0.5) == validation.labels
    assert again.of("epoch")[-1].metrics["val_accuracy"] == pytest.approx(right.mean())


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match=r"is for pictures.*have the shape \(6\)") as caught:
        augmenter(FLIP, data=info(example_shape=[6]))
    assert (caught.value.work_code, caught.value.param) == ("no_pictures", "augmentation")


# === Mixed labels ===


def test_a_mixed_example_counts_as_right_where_the_larger_part_is_named() -> None:
    from worker.engine.objective import Objective

    outputs = np.float32([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    parts = np.float32([[0.6, 0.4, 0.0], [0.6, 0.0, 0.4]])
    objective = Objective("single_label", mixed=True)
    assert np.asarray(objective.score(parts, outputs)).tolist() == [1, 0]
    assert float(objective.loss(parts, outputs)) == pytest.approx(-(parts * np.log(outputs)).sum(axis=1).mean())

    sigmoids, shares = np.float32([[0.8], [0.8]]), np.float32([0.7, 0.3])
    binary = Objective("binary", mixed=True)
    assert np.asarray(binary.score(shares, sigmoids)).tolist() == [1, 0]
    expected = -(shares * np.log(0.8) + (1 - shares) * np.log(0.2)).mean()
    assert float(binary.loss(shares, sigmoids)) == pytest.approx(expected, rel=1e-5)
