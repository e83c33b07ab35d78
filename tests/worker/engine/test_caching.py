"""Training on cached features against training without: the same weights, whatever the graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import SilentReporter

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


def phase(name: str, unfreeze: Any, optimizer: dict[str, Any] | None = None, epochs: int = 2) -> dict[str, Any]:
    chosen = optimizer or {"type": "adam", "learning_rate": 0.01}
    return {"name": name, "unfreeze": unfreeze, "epochs": epochs, "optimizer": chosen}


MOMENTUM = {"type": "sgd", "learning_rate": 0.05, "momentum": 0.9}
HEAD = phase("head", "none")
DROP = {"layers": [{"type": "dropout", "rate": 0.3}]}
DEEP = {"layers": [{"type": "dense", "units": 8}, {"type": "batch_normalization"}, {"type": "dropout", "rate": 0.2}]}

ONE = {"drop_last": 1}
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


def largest_difference(one: Any, other: Any) -> float:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return max(float(np.max(np.abs(ours[key] - theirs[key]))) for key in ours)


@pytest.mark.parametrize(("build", "cut", "head", "phases"), COMBINATIONS)
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
    for ours, theirs in zip(cached.report.phases, plain.report.phases, strict=True):
        assert ours.proof.frozen_digest_before == ours.proof.frozen_digest_after
        assert ours.trainable_parameters == theirs.trainable_parameters
