"""What a schedule may say, in whole runs on small data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import UserError
from app.domain.spec import ResolvedSpec, Spec, resolve

pytestmark = pytest.mark.tensorflow

HEAD_PHASE = {"name": "head", "unfreeze": "none", "epochs": 2, "optimizer": {"type": "sgd", "learning_rate": 0.1}}
ALL_PHASE = {"name": "all", "unfreeze": "all", "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.01}}


def spec(*phases: dict[str, Any], seed: int = 42, **fields: Any) -> ResolvedSpec:
    return resolve(Spec(schedule=list(phases), **{"batch_size": 16, **fields}), seed=seed)


@pytest.fixture(scope="module")
def labelled(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    """Three labels that an example has or not; some have none, some all."""
    x, _ = blobs(classes=2, examples=200)
    return store_dataset({"class_names": ["warm", "big", "old"]}, x=x, y=(x[:, :3] > 0).astype("int64"))


def run(spec: ResolvedSpec, source: Path, data: Path, workdir: Path, reporter: Any) -> tuple[Any, Any]:
    from worker.engine.train import train

    return train(spec, source, data, workdir, reporter), reporter


def weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def test_the_history_tells_the_rate_of_each_epochs_last_step(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    from app.domain.learning_rates import OneCycleRate, rate_at, segments

    cycle = {"type": "one_cycle", "warmup_epochs": 0.9}
    phase = {**HEAD_PHASE, "epochs": 3, "learning_rate_schedule": cycle}
    _, reporter = run(spec(phase, ALL_PHASE), source, binary, tmp_path, recorder())
    epochs = reporter.of("epoch")
    steps = epochs[0].step
    rates = segments(OneCycleRate.model_validate(cycle), learning_rate=0.1, epochs=3, steps_per_epoch=steps)
    expected = [rate_at(rates, steps * epoch - 1) for epoch in (1, 2, 3)]
    assert [epoch.metrics["learning_rate"] for epoch in epochs] == pytest.approx([*expected, 0.01, 0.01])
    assert expected[0] > expected[1] > expected[2]


@pytest.mark.parametrize("optimizer", [{"type": "sgd", "learning_rate": 0.1}, {"type": "adam", "learning_rate": 0.01}])
def test_layer_decay_halves_the_first_update_once_more_for_each_layer_down(
    source: Path, binary: Path, recorder: Any, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    """One epoch of one step from the same weights on the same batch, with and without."""
    phase = {"name": "all", "unfreeze": "all", "epochs": 1, "optimizer": optimizer}
    folders = [tmp_path / name for name in ("whole", "halved", "start")]
    for folder, change in zip(folders, ({}, {"layer_decay": 0.5}, {}), strict=True):
        rate = {"optimizer": {"type": "sgd", "learning_rate": 1e-7}} if folder.name == "start" else {}
        one_step = spec({**phase, **change, **rate}, batch_size=1000)
        run(one_step, source, binary, folder, recorder())
    whole, halved, start = (weights(folder / "checkpoints/phase-01.safetensors") for folder in folders)
    for name, before in start.items():
        part = {"hidden_1": 0.25, "hidden_2": 0.5, "output": 1.0}[name.partition("/")[0]]
        np.testing.assert_allclose(halved[name] - before, part * (whole[name] - before), atol=3e-6, err_msg=name)
        assert np.abs(whole[name] - before).max() > 1e-4


def test_a_phase_starts_from_the_best_epoch_of_the_one_before_or_from_the_last(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    """A rate so high that the loss goes up; the second phase then hardly moves, so its loss tells where it started."""
    jumping = {**HEAD_PHASE, "epochs": 5, "optimizer": {"type": "sgd", "learning_rate": 30.0}}
    resting = {"name": "rest", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-4}}
    for start_from in ("best", "last"):
        after = {**resting, "start_from": start_from}
        _, reporter = run(spec(jumping, after), source, binary, tmp_path / start_from, recorder())
        *losses, found = (epoch.metrics["val_loss"] for epoch in reporter.of("epoch"))
        assert min(losses) < 0.8 * losses[-1]
        assert found == pytest.approx(min(losses) if start_from == "best" else losses[-1], rel=0.02)


def test_an_optimizer_that_is_carried_on_makes_two_phases_of_one(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    adam = {"type": "adam", "learning_rate": 0.01}
    whole = [{"epochs": 4, "optimizer": adam}]
    halves = [{"epochs": 2, "optimizer": adam}, {"epochs": 2, "optimizer": adam, "optimizer_state": "carry"}]
    fresh = [halves[0], {**halves[1], "optimizer_state": "reset"}]
    results = [
        weights(run(spec(*phases), source, binary, tmp_path / name, recorder())[0].canonical / "weights.safetensors")
        for name, phases in (("whole", whole), ("halves", halves), ("fresh", fresh))
    ]
    for name, value in results[0].items():
        np.testing.assert_array_equal(results[1][name], value, err_msg=name)
    assert any((results[2][name] != value).any() for name, value in results[0].items())


def test_statistics_of_unfrozen_batch_norm_move_only_if_asked_to_and_those_of_frozen_ones_never(
    store_source: Callable[..., Path], binary: Path, recorder: Any, tmp_path: Path
) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    tensor = inputs = keras.Input((6,))
    for name in ("low", "high"):
        tensor = layers.BatchNormalization(name=f"{name}_norm")(layers.Dense(4, name=name)(tensor))
    normed = store_source(keras.Model(inputs, layers.Dense(3, name="old")(tensor)), rescale="none")
    for batch_norm in ("frozen", "train"):
        last = {"name": "last", "unfreeze": {"last": 2}, "epochs": 1, "batch_norm": batch_norm}
        result, _ = run(spec(HEAD_PHASE, last), normed, binary, tmp_path / batch_norm, recorder())
        before, after = (weights(folder / "weights.safetensors") for folder in (normed, result.canonical))
        moved = {name for name, value in before.items() if "norm" in name and (after[name] != value).any()}
        every = {f"high_norm/{name}" for name in ("0.gamma", "1.beta", "2.moving_mean", "3.moving_variance")}
        assert moved == (every if batch_norm == "train" else set())
        assert all(phase.proof.held for phase in result.report.phases)


def test_accumulated_gradients_make_one_step_of_several_batches(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    phase = {"epochs": 3, "unfreeze": "all", "optimizer": {"type": "adam", "learning_rate": 0.01}}
    small = spec({**phase, "gradient_accumulation": 4}, batch_size=8)
    large = spec(phase, batch_size=32)
    results = [run(each, source, binary, tmp_path / name, recorder()) for each, name in ((small, "s"), (large, "l"))]
    steps = [[epoch.step for epoch in reporter.of("epoch")] for _, reporter in results]
    assert steps[0] == steps[1]
    assert steps[0][0] == 3  # 84 examples: two steps of four batches, one of what is left
    mine, other = (weights(result.canonical / "weights.safetensors") for result, _ in results)
    for name, value in other.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_balanced_weights_and_smoothing_change_training_and_stand_in_the_report(
    source: Path, store_dataset: Callable[..., Path], blobs: Callable[..., Any], recorder: Any, tmp_path: Path
) -> None:
    x, y = blobs(classes=2, examples=200)
    keep = (y == 0) | (np.arange(len(y)) % 10 == 1)
    skewed = store_dataset({"class_names": ["hen", "duck"]}, x=x[keep], y=y[keep])
    plain = run(spec(HEAD_PHASE), source, skewed, tmp_path / "plain", recorder())[0]
    fair = run(spec(HEAD_PHASE, class_weights="balanced"), source, skewed, tmp_path / "fair", recorder())[0]
    smooth = run(spec(HEAD_PHASE, label_smoothing=0.2), source, skewed, tmp_path / "smooth", recorder())[0]
    assert plain.report.class_weights is None
    hens, ducks = (fair.report.class_weights[name] for name in ("hen", "duck"))
    assert ducks > 3 * hens
    assert fair.report.test.per_class["duck"]["recall"] >= plain.report.test.per_class["duck"]["recall"]
    found = [weights(result.canonical / "weights.safetensors")["output/0.kernel"] for result in (plain, fair, smooth)]
    assert (found[0] != found[1]).any()
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_gives_a_model_in_float32(
    source: Path, binary: Path, recorder: Any, tmp_path: Path, precision: str
) -> None:
    import keras

    carried = {**ALL_PHASE, "name": "more", "optimizer_state": "carry", "gradient_accumulation": 2}
    mixed = spec(
        HEAD_PHASE, ALL_PHASE, carried, mixed_precision=precision, head={"layers": [{"type": "dropout", "rate": 0.1}]}
    )
    result, reporter = run(mixed, source, binary, tmp_path, recorder())
    assert result.report.test.accuracy.value > 0.8
    assert result.report.source.unchanged
    assert all(phase.proof.held for phase in result.report.phases)
    assert result.report.export_difference < 1e-6
    assert [epoch.metrics["learning_rate"] for epoch in reporter.of("epoch")] == pytest.approx([0.1] * 2 + [0.01] * 4)
    model = keras.saving.load_model(result.results / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert model(np.zeros((1, 6), "float32")).dtype == "float32"


def test_layers_compute_in_half_the_bits_while_they_train(source: Path) -> None:
    from app.domain.head import Head
    from app.domain.spec import DropLast
    from worker.engine import sources, surgery

    origin = sources.load(source)
    backbone = surgery.cut_at(origin, DropLast(drop_last=1), precision="float16")
    head = Head.model_validate({"layers": [{"type": "dense", "units": 4}]})
    model = surgery.attach_head(backbone, head, task="binary", outputs=1, seed=0, precision="float16")
    types = {layer.name: (layer.compute_dtype, layer.variable_dtype) for layer in model.layers if layer.weights}
    half = ("float16", "float32")
    assert types == {"hidden_1": half, "hidden_2": half, "head_dense": half, "output": ("float32", "float32")}
    assert {layer.compute_dtype for layer in surgery.in_float32(model, seed=0).layers} == {"float32"}
    assert {layer.compute_dtype for layer in origin.model.layers} == {"float32"}


def test_several_labels_at_once_from_arrays_to_the_report(
    source: Path, labelled: Path, recorder: Any, tmp_path: Path
) -> None:
    import json

    import keras

    adam = {"type": "adam", "learning_rate": 0.03}
    several = spec({**HEAD_PHASE, "epochs": 4, "optimizer": adam}, {**ALL_PHASE, "epochs": 10, "optimizer": adam})
    result, reporter = run(several, source, labelled, tmp_path, recorder())
    test = result.report.test
    assert result.report.task == "multi_label"
    assert result.report.labels == ["warm", "big", "old"]
    assert test.label_accuracy.value > 0.85
    assert test.exact_match.value <= test.label_accuracy.value
    assert set(test.per_class) == {"warm", "big", "old"}
    assert "val_label_accuracy" in reporter.of("epoch")[0].metrics
    labels = json.loads((result.results / "labels.json").read_text())
    assert (labels["task"], labels["labels"]) == ("multi_label", ["warm", "big", "old"])
    model = keras.saving.load_model(result.results / "model.keras")
    outputs = model.predict(np.ones((2, 6), "float32"), verbose=0)
    assert outputs.shape == (2, 3)
    assert model.layers[-1].activation.__name__ == "sigmoid"


# === The source's own output layer ===


def test_a_kept_head_trains_on_from_the_weights_of_the_source(
    source: Path, store_dataset: Callable[..., Path], blobs: Callable[..., Any], recorder: Any, tmp_path: Path
) -> None:
    x, y = blobs(classes=3, examples=150)
    data = store_dataset(x=x, y=y)
    resting = {"name": "rest", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-4}}
    kept = spec(resting, head="keep", cut={"drop_last": 0})
    result, _ = run(kept, source, data, tmp_path, recorder())
    before, after = (weights(folder / "weights.safetensors") for folder in (source, result.canonical))
    assert before.keys() == after.keys()
    np.testing.assert_allclose(after["old/0.kernel"], before["old/0.kernel"], atol=1e-3)
    assert (after["old/0.kernel"] != before["old/0.kernel"]).any()
    np.testing.assert_array_equal(after["hidden_2/0.kernel"], before["hidden_2/0.kernel"])
    assert result.report.phases[0].proof.trained_variables == 2
    assert result.report.cut_layer == "old"


@pytest.mark.parametrize("ending", ["dense", "activation", "softmax"])
def test_a_head_is_kept_with_the_activation_that_follows_it(store_source: Callable[..., Path], ending: str) -> None:
    import keras
    from keras import layers

    from app.domain.spec import CutLayer
    from worker.engine import sources, surgery

    inputs = keras.Input((4,))
    inner_inputs = keras.Input((4,))
    inner = keras.Model(
        inner_inputs, layers.Dense(3, name="logits")(layers.Dense(5, name="deep")(inner_inputs)), name="inner"
    )
    tensor = inner(layers.Dense(4, name="deep")(inputs))
    if ending != "dense":
        tensor = layers.Softmax()(tensor) if ending == "softmax" else layers.Activation("softmax")(tensor)
    origin = sources.load(store_source(keras.Model(inputs, tensor), rescale="none"))
    backbone = surgery.cut_at(origin, CutLayer(layer="inner/deep"))
    if ending == "dense":
        with pytest.raises(UserError, match="'softmax' for the task 'single_label'; the source's ends in 'linear'"):
            surgery.keep_head(origin, backbone, task="single_label", seed=0)
        return
    model = surgery.keep_head(origin, backbone, task="single_label", seed=0)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(model(x), origin.model(x), rtol=1e-6)
    assert [path for path, _ in surgery.leaf_layers(backbone)] == ["deep", "inner/deep"]
    mine = {id(weight) for weight in model.weights}
    assert not mine & {id(weight) for weight in origin.model.weights}


def test_a_kept_head_that_does_not_fit_the_task_is_refused(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    kept = spec(HEAD_PHASE, head="keep", cut={"drop_last": 0})
    with pytest.raises(UserError, match="needs 1 output for this dataset's task 'binary'") as caught:
        run(kept, source, binary, tmp_path, recorder())
    assert (caught.value.work_code, caught.value.param) == ("head_does_not_fit", "head")


# === Presets ===


@pytest.mark.parametrize("name", ["two_phase", "head_only", "gradual", "fine_tune", "full", "from_scratch"])
def test_every_preset_trains(source: Path, binary: Path, recorder: Any, tmp_path: Path, name: str) -> None:
    small = {"preset": name, "epochs": 3, "learning_rate": 0.02, "optimizer": "adam"}
    preset = resolve(Spec.model_validate({"schedule": small, "batch_size": 16}), seed=1)
    result, reporter = run(preset, source, binary, tmp_path, recorder())
    assert len(reporter.of("phase_finished")) == len(preset.schedule)
    losses = [epoch.metrics["loss"] for epoch in reporter.of("epoch")]
    assert losses[-1] < losses[0]
    assert all(phase.proof.held for phase in result.report.phases)
    assert result.report.spec.preset == name
    assert result.report.spec.backbone_weights == ("random" if name == "from_scratch" else "source")


# === On cached features ===


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": {"gradient_accumulation": 4}, "batch_size": 8},
        {"phase": {"layer_decay": 0.5, "learning_rate_schedule": {"type": "one_cycle"}}, "batch_size": 64},
        {"mixed_precision": "bfloat16", "batch_size": 64},
        {"class_weights": "balanced", "label_smoothing": 0.1, "batch_size": 64},
    ],
)  # fmt: skip
def test_cached_features_change_nothing(
    source: Path, binary: Path, recorder: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """An even number of batches of features: the same bits come out of the frozen layers."""
    fields = dict(changes)
    adam = {"type": "adam", "learning_rate": 0.02}
    phase = {"name": "top", "unfreeze": {"last": 1}, "epochs": 3, "optimizer": adam, **fields.pop("phase", {})}
    results = [
        run(spec(phase, cache=cache, **fields), source, binary, tmp_path / cache, recorder())[0]
        for cache in ("require", "off")
    ]
    assert [result.report.phases[0].cache.used for result in results] == [True, False]
    cached, plain = (weights(result.canonical / "weights.safetensors") for result in results)
    for name, value in plain.items():
        np.testing.assert_allclose(cached[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_several_labels_train_on_cached_features(source: Path, labelled: Path, recorder: Any, tmp_path: Path) -> None:
    result, _ = run(spec(HEAD_PHASE, cache="require"), source, labelled, tmp_path, recorder())
    assert result.report.phases[0].cache.used
    assert result.report.test.label_accuracy is not None
