"""Training on cached features against training without: the same weights, whatever the graph."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import PlatformError, UserError
from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import SilentReporter, TrainingStopped

pytestmark = pytest.mark.tensorflow

PICTURE = (12, 12, 3)


# === Models: every kind of graph that a boundary may lie in ===


def stack() -> Any:
    """A plain Sequential."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input(PICTURE),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(6, 3, activation="relu", name="conv_2"),
            layers.Flatten(name="flat"),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dense(4, activation="softmax", name="old"),
        ],
        name="stack",
    )


def normalized() -> Any:
    """Batch normalization after each convolution."""
    from keras import Input, Model, layers

    x = inputs = Input(PICTURE)
    for number in (1, 2, 3):
        x = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"conv_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(layers.BatchNormalization(name=f"norm_{number}")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="normalized")


def residual() -> Any:
    """Skip connections: a boundary inside a block is two tensors wide."""
    from keras import Input, Model, layers

    inputs = Input(PICTURE)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    for number in (1, 2):
        inner = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"block_{number}_a")(x)
        inner = layers.Conv2D(4, 3, padding="same", name=f"block_{number}_b")(inner)
        x = layers.ReLU(name=f"block_{number}_relu")(layers.Add(name=f"block_{number}_add")([x, inner]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="residual")


def operations() -> Any:
    """Nameless operations between the layers."""
    from keras import Input, Model, layers, ops

    inputs = Input(PICTURE)
    x = layers.Conv2D(4, 3, padding="same", name="conv_1")(inputs * 2.0 - 1.0)
    y = layers.Conv2D(4, 3, padding="same", name="conv_2")(ops.relu(x)) + x
    x = layers.GlobalAveragePooling2D(name="pool")(ops.tanh(y))
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="operations")


def nested() -> Any:
    """A model inside a model, as the transfer learning guide builds them."""
    from keras import Input, Model, layers

    inner_inputs = Input(PICTURE)
    x = layers.Conv2D(4, 3, activation="relu", name="conv_1")(inner_inputs)
    x = layers.BatchNormalization(name="norm")(x)
    inner = Model(inner_inputs, layers.Conv2D(4, 3, activation="relu", name="conv_2")(x), name="inner")
    inputs = Input(PICTURE)
    x = layers.GlobalAveragePooling2D(name="pool")(inner(inputs, training=False))
    x = layers.Dense(8, activation="relu", name="dense")(x)
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="outer")


def shared() -> Any:
    """One layer and one nested model, each used twice."""
    from keras import Input, Model, Sequential, layers

    tower = Sequential([Input((None, None, 4)), layers.Conv2D(4, 3, padding="same", name="tower_conv")], name="tower")
    inputs = Input(PICTURE)
    twice = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.Concatenate(name="both")([tower(twice), tower(tower(twice))])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="shared")


def dropping() -> Any:
    """Dropout in the middle, noise before it."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input(PICTURE),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            layers.GaussianNoise(0.1, name="noise"),
            layers.Conv2D(4, 3, activation="relu", name="conv_2"),
            layers.SpatialDropout2D(0.3, name="drop"),
            layers.Conv2D(4, 3, activation="relu", name="conv_3"),
            layers.Flatten(name="flat"),
            layers.Dense(4, activation="softmax", name="old"),
        ],
        name="dropping",
    )


def separable() -> Any:
    """Depthwise convolutions, as MobileNets have them."""
    from keras import Input, Model, layers

    x = inputs = Input(PICTURE)
    for number in (1, 2):
        x = layers.DepthwiseConv2D(3, padding="same", name=f"deep_{number}")(x)
        x = layers.Conv2D(6, 1, activation="relu6", name=f"wide_{number}")(x)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    return Model(inputs, layers.Dense(4, activation="softmax", name="old")(x), name="separable")


def regularized() -> Any:
    """Weights with penalties, which count as long as they train."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input(PICTURE),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", name="conv_1"),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", name="conv_2"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(4, activation="softmax", name="old"),
        ],
        name="regularized",
    )


def phase(name: str, unfreeze: Any, optimizer: dict[str, Any] | None = None, epochs: int = 2) -> dict[str, Any]:
    chosen = optimizer or {"type": "adam", "learning_rate": 0.01}
    return {"name": name, "unfreeze": unfreeze, "epochs": epochs, "optimizer": chosen}


MOMENTUM = {"type": "sgd", "learning_rate": 0.05, "momentum": 0.9}
HEAD = phase("head", "none")
DROP = {"layers": [{"type": "dropout", "rate": 0.3}]}
DEEP = {"layers": [{"type": "dense", "units": 8}, {"type": "batch_normalization"}, {"type": "dropout", "rate": 0.2}]}

ONE = {"drop_last": 1}
ALL = bool(os.environ.get("THAW_TEST_ALL"))
"""Train every combination, not every third."""
COMBINATIONS: list[tuple[Callable[[], Any], dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = [
    (stack, ONE, {}, [HEAD]),
    (stack, ONE, DEEP, [HEAD, phase("last", {"last": 1})]),
    (stack, {"layer": "pool"}, DROP, [HEAD, phase("all", "all")]),
    (stack, {"layer": "conv_2"}, {}, [phase("last", {"last": 1}, MOMENTUM)]),
    (stack, {"keep_first": 5}, DEEP, [HEAD, phase("last", {"last": 1}), phase("all", "all")]),
    (normalized, ONE, {}, [HEAD]),
    (normalized, ONE, DROP, [HEAD, phase("last", {"last": 2}), phase("more", {"last": 3})]),
    (normalized, ONE, {}, [phase("from", {"from_layer": "conv_3"}, MOMENTUM)]),
    (normalized, {"layer": "norm_2"}, DEEP, [HEAD, phase("top", {"fraction": 0.5})]),
    (
        normalized,
        {"layer": "relu_3"},
        {},
        [phase("match", {"match": "conv_3"}), phase("again", {"match": "conv_[23]"})],
    ),
    (residual, ONE, {}, [HEAD]),
    (residual, ONE, DROP, [HEAD, phase("inside", {"match": "block_2_b"})]),
    (residual, ONE, {}, [phase("block", {"from_layer": "block_2_a"}, MOMENTUM)]),
    (residual, {"layer": "block_2_add"}, DEEP, [phase("one branch", {"match": "block_2_a"}), phase("all", "all")]),
    (residual, {"fraction": 0.6}, {}, [HEAD, phase("last", {"last": 1})]),
    (operations, ONE, {}, [HEAD]),
    (operations, ONE, DROP, [HEAD, phase("last", {"last": 1})]),
    (operations, {"layer": "conv_2"}, {}, [phase("last", {"last": 1}, MOMENTUM)]),
    (nested, ONE, {}, [HEAD]),
    (nested, ONE, DROP, [HEAD, phase("inside", {"from_layer": "inner/conv_2"}), phase("all", "all")]),
    (nested, {"layer": "inner/norm"}, DEEP, [HEAD]),
    (nested, {"layer": "pool"}, {}, [phase("inside", {"match": "conv_2"}, MOMENTUM)]),
    (shared, ONE, {}, [HEAD]),
    (shared, ONE, DROP, [HEAD, phase("last", {"last": 1})]),
    (shared, ONE, {}, [phase("tower", {"match": "tower_conv"}, MOMENTUM)]),
    (dropping, ONE, {}, [HEAD]),
    (dropping, ONE, DROP, [HEAD, phase("last", {"last": 1})]),
    (dropping, {"layer": "conv_2"}, {}, [HEAD, phase("last", {"last": 1}, MOMENTUM)]),
    (separable, ONE, {}, [HEAD]),
    (separable, ONE, DEEP, [HEAD, phase("last", {"last": 1}), phase("half", {"fraction": 0.5}), phase("all", "all")]),
    (separable, {"layer": "deep_2"}, DROP, [phase("last", {"last": 1}, MOMENTUM)]),
    (separable, {"layer": "wide_1"}, {}, [HEAD]),
    (regularized, ONE, {}, [HEAD, phase("last", {"last": 1}), phase("all", "all")]),
]


@pytest.fixture(scope="module")
def data(store_dataset: Callable[..., Path]) -> Path:
    """Small pictures with squares in one of three corners; 8-bit, so that preprocessing takes part."""
    random = np.random.default_rng(0)
    x = random.integers(0, 120, (90, *PICTURE))
    y = np.arange(90) % 3
    for number, label in enumerate(y):
        row, column = divmod(int(label), 2)
        x[number, 6 * row : 6 * row + 5, 6 * column : 6 * column + 5] += 100
    return store_dataset(x=x.astype("uint8"), y=y)


@pytest.fixture(scope="module")
def sources(store_source: Callable[..., Path]) -> Callable[[Callable[[], Any]], Path]:
    """Each model once, with fixed weights."""
    import keras

    stored: dict[str, Path] = {}

    def source(build: Callable[[], Any]) -> Path:
        if build.__name__ not in stored:
            keras.utils.set_random_seed(3)
            stored[build.__name__] = store_source(build())
        return stored[build.__name__]

    return source


def spec(cut: dict[str, Any], head: dict[str, Any], phases: list[dict[str, Any]], cache: str) -> ResolvedSpec:
    return resolve(Spec(cut=cut, head=head, schedule=phases, cache=cache, batch_size=16), seed=5)  # type: ignore[arg-type]  # pydantic converts


def run(spec: ResolvedSpec, source: Path, data: Path, workdir: Path, **options: Any) -> Any:
    from worker.engine.train import train

    workdir.mkdir(exist_ok=True)
    return train(spec, source, data, workdir, options.pop("reporter", SilentReporter()), **options)


def weights_of(trained: Any) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(trained.canonical / "weights.safetensors")


def history_of(trained: Any) -> list[dict[str, float]]:
    """The metrics of each epoch, times and names left out."""
    epochs = json.loads((trained.results / "history.json").read_text())["epochs"]
    return [{key: value for key, value in epoch.items() if key not in {"seconds", "phase"}} for epoch in epochs]


def largest_difference(one: Any, other: Any) -> float:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return max(float(np.max(np.abs(ours[key] - theirs[key]))) for key in ours)


@pytest.mark.parametrize(("build", "cut", "head", "phases"), COMBINATIONS if ALL else COMBINATIONS[::3])
def test_cached_and_uncached_training_give_the_same_weights(  # noqa: PLR0917 (pytest names them)
    build: Callable[[], Any],
    cut: dict[str, Any],
    head: dict[str, Any],
    phases: list[dict[str, Any]],
    sources: Any,
    data: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    cached = run(spec(cut, head, phases, "require"), sources(build), data, tmp_path / "cached")
    plain = run(spec(cut, head, phases, "off"), sources(build), data, tmp_path / "plain")
    uses = [report.cache for report in cached.report.phases]
    assert uses[0].used
    assert not any(report.cache.used for report in plain.report.phases)
    difference = largest_difference(cached, plain)
    record_property("largest_difference", difference)
    print(f"{build.__name__:12} {[use.boundary for use in uses]} largest difference {difference:.3g}")  # noqa: T201 (shown by -s)
    assert difference <= 1e-4
    for ours, theirs in zip(history_of(cached), history_of(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    for ours, theirs in zip(cached.report.phases, plain.report.phases, strict=True):
        assert ours.proof.frozen_digest_before == ours.proof.frozen_digest_after
        assert ours.trainable_parameters == theirs.trainable_parameters


# === What is right, what pays, what is said ===


def masked() -> Any:
    """A mask of the embedding passes through to the recurrent layer."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((7,)),
            layers.Embedding(20, 4, mask_zero=True, name="words"),
            layers.Dense(4, name="dense"),
            layers.LSTM(5, name="lstm"),
            layers.Dense(3, activation="softmax", name="old"),
        ],
        name="masked",
    )


def penalized() -> Any:
    """A layer that adds a loss for each batch."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input(PICTURE),
            layers.Conv2D(4, 3, activity_regularizer="l2", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(4, activation="softmax", name="old"),
        ],
        name="penalized",
    )


@pytest.fixture(scope="module")
def sequences(store_dataset: Callable[..., Path]) -> Path:
    x = np.random.default_rng(1).integers(0, 20, (60, 7))
    return store_dataset(x=x.astype("float32"), y=np.arange(60) % 3)


def uses(trained: Any) -> list[Any]:
    return [report.cache for report in trained.report.phases]


def test_the_layers_of_the_boundary_are_named(sources: Any, data: Path, tmp_path: Path) -> None:
    phases = [phase("one branch", {"match": "block_2_a"}), phase("all", "all")]
    branch, everything = uses(run(spec(ONE, {}, phases, "require"), sources(residual), data, tmp_path))
    # The skip connection passes around the layer that trains, and both ends are one tensor.
    assert branch.boundary == ["block_1_relu"]
    assert (everything.used, everything.boundary) == (False, ["the input"])
    assert everything.reason == "no frozen layer with weights stands below what trains or draws at random"


def test_a_boundary_may_be_several_tensors(sources: Any, data: Path, tmp_path: Path) -> None:
    (use,) = uses(
        run(spec(ONE, {}, [phase("b", {"match": "block_2_b"})], "require"), sources(residual), data, tmp_path)
    )
    assert use.boundary == ["block_1_relu", "block_2_a"]


def test_dropout_ends_the_prefix_once_something_of_the_backbone_trains(
    sources: Any, data: Path, tmp_path: Path
) -> None:
    phases = [HEAD, phase("last", {"last": 1})]
    head, last = uses(run(spec(ONE, {}, phases, "require"), sources(dropping), data, tmp_path))
    assert head.boundary == ["flat"]
    assert last.boundary == ["conv_1"]


def test_masks_are_not_lost(sources: Any, sequences: Path, tmp_path: Path) -> None:
    phases = [phase("lstm", {"match": "lstm"})]
    (use,) = uses(run(spec(ONE, {}, phases, "auto"), sources(masked), sequences, tmp_path / "auto"))
    assert (use.used, use.reason) == (False, "it would save too little")
    with pytest.raises(UserError, match="what passes it carries a mask") as caught:
        run(spec(ONE, {}, phases, "require"), sources(masked), sequences, tmp_path / "require")
    assert (caught.value.work_code, caught.value.param) == ("cache_impossible", "cache")
    (use,) = uses(run(spec(ONE, {}, [HEAD], "require"), sources(masked), sequences, tmp_path / "head"))
    assert use.boundary == ["lstm"]


def test_losses_of_single_batches_are_not_lost(sources: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer 'conv' adds a loss of its own for each batch"):
        run(spec(ONE, {}, [HEAD], "require"), sources(penalized), data, tmp_path)


def test_what_saves_little_is_not_cached_unless_it_must_be(sources: Any, data: Path, tmp_path: Path) -> None:
    (use,) = uses(run(spec(ONE, {}, [HEAD], "auto"), sources(stack), data, tmp_path / "auto"))
    assert (use.used, use.reason, use.bytes) == (False, "it would save too little", 0)
    required = run(spec(ONE, {}, [HEAD], "require"), sources(stack), data, tmp_path / "require")
    (use,) = uses(required)
    examples = 90 - required.report.test.examples
    assert (use.used, use.bytes) == (True, 4 * 8 * examples)


def test_features_from_a_file_train_the_same_weights(
    sources: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import caching

    job = spec(ONE, DEEP, [HEAD, phase("inside", {"match": "block_2_b"})], "require")
    in_memory = run(job, sources(residual), data, tmp_path / "memory")
    monkeypatch.setattr(caching, "MEMORY_BYTES", 0)
    from_file = run(job, sources(residual), data, tmp_path / "file")
    assert [use.in_memory for use in uses(in_memory) + uses(from_file)] == [True, True, False, False]
    assert largest_difference(in_memory, from_file) == 0


def test_how_many_steps_go_together_changes_nothing(
    sources: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import caching

    job = spec(ONE, DEEP, [phase("head", "none", epochs=4)], "require")
    many = run(job, sources(stack), data, tmp_path / "many")
    monkeypatch.setattr(caching, "EXECUTION_SECONDS", 0.0)
    single = run(job, sources(stack), data, tmp_path / "single")
    assert largest_difference(many, single) == 0
    assert history_of(many) == history_of(single)


# === What is shared ===


def folder_cache(tmp_path: Path, max_bytes: int = 2**30) -> Any:
    from worker.engine.foldercache import FolderCache

    return FolderCache(tmp_path / "features", max_bytes=max_bytes)


def test_jobs_share_features_whatever_their_head_and_seed(sources: Any, data: Path, tmp_path: Path) -> None:
    shared_cache = folder_cache(tmp_path)
    one = spec(ONE, {}, [HEAD], "require")
    other = spec(ONE, DEEP, [phase("head", "none", MOMENTUM)], "require").model_copy(update={"seed": 77})
    first = run(one, sources(dropping), data, tmp_path / "first", features=shared_cache)
    second = run(other, sources(dropping), data, tmp_path / "second", features=shared_cache)
    assert [use.found for use in uses(first) + uses(second)] == [False, True]
    alone = run(other, sources(dropping), data, tmp_path / "alone")
    assert largest_difference(second, alone) == 0


@pytest.mark.parametrize("change", ["weights", "preprocessing", "data", "batch"])
def test_what_decides_the_features_is_part_of_their_key(  # noqa: PLR0917 (pytest names them)
    change: str, sources: Any, data: Path, store_source: Any, store_dataset: Any, tmp_path: Path
) -> None:
    import keras

    shared_cache, job, source = folder_cache(tmp_path), spec(ONE, {}, [HEAD], "require"), sources(stack)
    run(job, source, data, tmp_path / "first", features=shared_cache)
    if change == "weights":
        keras.utils.set_random_seed(4)
        source = store_source(stack())
    if change == "preprocessing":
        job = ResolvedSpec.model_validate({**job.model_dump(), "preprocessing": {"rescale": "none"}})
    if change == "data":
        x = np.random.default_rng(9).integers(0, 255, (90, *PICTURE)).astype("uint8")
        data = store_dataset(x=x, y=np.arange(90) % 3)
    if change == "batch":
        job = job.model_copy(update={"batch_size": 70})
    (use,) = uses(run(job, source, data, tmp_path / "second", features=shared_cache))
    assert not use.found


def test_a_later_phase_of_the_same_job_finds_its_features(sources: Any, data: Path, tmp_path: Path) -> None:
    phases = [HEAD, phase("head again", "none", MOMENTUM)]
    assert [use.found for use in uses(run(spec(ONE, {}, phases, "require"), sources(stack), data, tmp_path))] == [
        False,
        True,
    ]


def test_features_beyond_the_limit_are_not_made(sources: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GiB are allowed"):
        run(spec(ONE, {}, [HEAD], "require"), sources(stack), data, tmp_path, features=folder_cache(tmp_path, 100))
    assert not [path for path in (tmp_path / "features").iterdir() if path.is_dir()]


def test_a_wrong_prefix_does_not_pass_the_certificate(
    sources: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import features

    fill = features._fill

    def wrong(run: Any, prefix: Any, folder: Path) -> None:
        fill(run, lambda x: [value + 0.01 for value in prefix(x)], folder)

    monkeypatch.setattr(features, "_fill", wrong)
    with pytest.raises(UserError, match="its values differ by"):
        run(spec(ONE, {}, [HEAD], "require"), sources(stack), data, tmp_path)


def test_a_full_disk_costs_the_cache_and_not_the_job(
    sources: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import caching, features

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features, "_append", full)
    monkeypatch.setattr(caching, "PAYS_FROM_MULTIPLY_ADDS", 0)
    (use,) = uses(run(spec(ONE, {}, [HEAD], "auto"), sources(stack), data, tmp_path))
    assert (use.used, use.reason) == (False, "there is no room on the disk for the features")


@pytest.mark.parametrize("noticed", ["before", "while they are written"])
def test_a_full_disk_sets_a_job_aside_that_requires_the_cache(
    sources: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    """It may have room later, or another worker's disk."""
    from worker.engine import durable, features

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if noticed == "before":
        monkeypatch.setattr(durable, "has_room", lambda *_: False)
    else:
        monkeypatch.setattr(features, "_append", full)
    with pytest.raises(PlatformError, match="no room on the disk") as caught:
        run(spec(ONE, {}, [HEAD], "require"), sources(stack), data, tmp_path)
    assert caught.value.work_code == "storage_full"


def test_a_cancel_is_seen_while_features_are_made(sources: Any, data: Path, recorder: Any, tmp_path: Path) -> None:
    reporter = recorder(stop_after=1, stop_in="caching_features")
    with pytest.raises(TrainingStopped):
        run(spec(ONE, {}, [HEAD], "require"), sources(stack), data, tmp_path, reporter=reporter)
    assert not [path for path in (tmp_path / "features").iterdir() if path.is_dir()]
    assert not list(tmp_path.glob("tmp*"))


# === Interrupted ===


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("room", "no room", "features cached, now not cached"),
        ("no room", "room", "features not cached, now cached"),
        ("room", "room", None),
        ("not said", "no room", None),
    ],
)
def test_a_phase_that_goes_on_with_other_features_says_so(  # noqa: PLR0917 (pytest names them)
    before: str,
    after: str,
    told: str | None,
    sources: Any,
    data: Path,
    tmp_path: Path,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.engine import caching, checkpoint

    monkeypatch.setattr(caching, "PAYS_FROM_MULTIPLY_ADDS", 0)
    job, source = spec(ONE, {}, [phase("head", "none", epochs=4)], "auto"), sources(stack)

    class AfterAnEpoch(recorder):  # type: ignore[misc]  # a class that a fixture hands out
        def check(self) -> None:
            if self.of("epoch"):
                raise TrainingStopped

    def features(place: str, name: str) -> Any:
        return folder_cache(tmp_path / name, 100 if place == "no room" else 2**30)

    with pytest.raises(TrainingStopped):
        run(job, source, data, tmp_path / "job", reporter=AfterAnEpoch(), features=features(before, "one"))
    if before == "not said":
        (kept,) = (tmp_path / "job" / checkpoint.FOLDER).iterdir()
        _forget(kept, "cached")
    reporter = recorder()
    (use,) = uses(run(job, source, data, tmp_path / "job", reporter=reporter, features=features(after, "other")))
    assert use.used == (after == "room")
    assert reporter.of("checkpoint_refused") == []
    first, *more = [(each.fidelity, each.differences, each.step) for each in reporter.of("resumed")]
    assert first[:2] == ("exact", [])
    assert more == ([] if told is None else [("tolerance", [told], first[2])])
    kinds = [each.type for each in reporter.progress]
    assert kinds.index("phase_started") > len(kinds) - 1 - kinds[::-1].index("resumed"), "before it goes on"


def _forget(folder: Path, field: str) -> None:
    """As a version wrote it that did not know the field."""
    from worker.engine.checkpoint import MANIFEST, META, Meta, _manifest

    found = json.loads((folder / META).read_text())
    del found[field]
    (folder / META).write_text(json.dumps(found))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(_manifest(folder, Meta.model_validate(found)))
