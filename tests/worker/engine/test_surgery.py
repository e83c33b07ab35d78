"""Surgery, checked against computations that step through the source's own layers by hand."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from app.domain.cuts import kept_rows, resolve_cut
from app.domain.errors import CutError, UserError
from app.domain.head import Head, HeadLayer
from app.domain.spec import CutFraction, CutLayer, DropLast, KeepFirst, Task

pytestmark = pytest.mark.tensorflow

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3), dtype="float32")
HEAD_LAYERS = TypeAdapter(list[HeadLayer])


def head(*layers: dict[str, Any]) -> Head:
    return Head(layers=HEAD_LAYERS.validate_python(list(layers)))


def numpy(tensor: Any) -> np.ndarray[Any, Any]:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


def source(model: Any) -> Any:
    """A source around a model in memory."""
    from app.domain.model import SourceInfo
    from worker.engine import canonical, sources, surgery

    info = SourceInfo(
        format="keras", keras_version=None, class_name=type(model).__name__, name=model.name,
        input_shape=list(model.inputs[0].shape), input_dtype="float32", output_shape=list(model.outputs[0].shape),
        parameters=model.count_params(), layers=surgery.layer_table(model), rescale=None, digest=sources.digest(model),
    )  # fmt: skip
    return canonical.Source(model=model, info=info)


@pytest.fixture(scope="module")
def nested() -> Any:
    """Rescaling, then a nested model with a residual block and BatchNorm with statistics, then a Sequential top."""
    import keras

    keras.utils.set_random_seed(7)
    inside = keras.Input((8, 8, 3), name="inside")
    conv1 = keras.layers.Conv2D(4, 3, padding="same", name="conv1")(inside)
    bn = keras.layers.BatchNormalization(name="bn")(conv1)
    conv2 = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2")(bn)
    total = keras.layers.Add(name="total")([conv1, conv2])
    inner = keras.Model(inside, keras.layers.ReLU(name="relu")(total), name="inner")
    top = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(3, name="dense")], name="top"
    )
    outside = keras.Input((8, 8, 3), name="outside")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(inner(keras.layers.Rescaling(2.0, name="scale")(outside)))
    model = keras.Model(outside, top(pooled), name="photos")
    for weight in model.get_layer("inner").get_layer("bn").weights:
        weight.assign(np.random.default_rng(1).random(weight.shape) + 0.5)
    return model


PATHS = [
    "outside", "scale", "inner/conv1", "inner/bn", "inner/conv2", "inner/total", "inner/relu", "pool", "top/drop",
    "top/dense",
]  # fmt: skip


def by_hand(model: Any, path: str) -> np.ndarray[Any, Any]:
    """What the source computes up to a layer, one layer after the other."""
    inner, top = model.get_layer("inner"), model.get_layer("top")
    values = {"scale": model.get_layer("scale")(IMAGES)}
    values["inner/conv1"] = inner.get_layer("conv1")(values["scale"])
    values["inner/bn"] = inner.get_layer("bn")(values["inner/conv1"], training=False)
    values["inner/conv2"] = inner.get_layer("conv2")(values["inner/bn"])
    values["inner/total"] = values["inner/conv1"] + values["inner/conv2"]
    values["inner/relu"] = np.maximum(numpy(values["inner/total"]), 0)
    values["pool"] = values["inner/relu"].mean(axis=(1, 2))
    values["top/drop"] = values["pool"]
    values["top/dense"] = values["pool"] @ numpy(top.get_layer("dense").kernel) + numpy(top.get_layer("dense").bias)
    return numpy(values[path])


# === Layer table ===


def test_nested_models_are_opened_depth_first_and_only_the_outermost_input_is_a_row(nested: Any) -> None:
    from worker.engine.surgery import layer_table

    rows = layer_table(nested)
    assert [row.path for row in rows] == PATHS
    assert [row.index for row in rows] == list(range(len(PATHS)))
    assert [row.inputs for row in rows] == [[], [0], [1], [2], [3], [2, 4], [5], [6], [7], [8]]
    assert sum(row.parameters for row in rows) == nested.count_params()
    assert {row.path for row in rows if row.has_weights} == {"inner/conv1", "inner/bn", "inner/conv2", "top/dense"}
    assert rows[2].output_shape == [None, 8, 8, 4]
    assert [row.path for row in rows if not row.legal_cut] == ["outside"]


def test_a_sequential_model_built_layer_by_layer_has_one_row_for_each_layer() -> None:
    import keras

    from worker.engine.surgery import layer_table

    model = keras.Sequential(name="s")
    model.add(keras.Input((4,), name="in"))
    for index in range(4):
        model.add(keras.layers.Dense(3, name=f"d{index}"))  # each call builds the graph anew
    rows = layer_table(model)
    assert [row.path for row in rows] == ["in", "d0", "d1", "d2", "d3"]
    assert [row.inputs for row in rows] == [[], [0], [1], [2], [3]]
    assert all(row.legal_cut for row in rows[1:])


def test_layers_that_a_head_cannot_sit_on_say_why() -> None:
    import keras

    from worker.engine.surgery import layer_table

    tokens = keras.Input((5,), dtype="int32", name="tokens")
    vectors = keras.layers.Embedding(9, 4, name="embed")(tokens)
    shared = keras.layers.Dense(4, name="shared")
    once = shared(vectors)
    states = keras.layers.LSTM(4, return_state=True, name="lstm")(shared(once))
    model = keras.Model(tokens, keras.layers.Dense(1, name="out")(states[1]))
    because = {row.path: row.illegal_because for row in layer_table(model)}
    assert "it is the input" in str(because["tokens"])
    assert "used 2 times" in str(because["shared"])
    assert "3 outputs" in str(because["lstm"])
    assert because["embed"] is None
    assert because["out"] is None


def test_in_a_model_that_shares_a_layer_no_branch_is_a_legal_cut() -> None:
    import keras

    from worker.engine.surgery import layer_table

    entry = keras.Input((4,), name="entry")
    shared = keras.layers.Dense(4, name="shared")
    left = keras.layers.ReLU(name="left")(shared(entry))
    right = shared(keras.layers.Dense(4, name="right")(left))
    model = keras.Model(entry, keras.layers.Add(name="sum")([left, right]))
    legal = {row.path: row.legal_cut for row in layer_table(model)}
    assert legal == {"entry": False, "shared": False, "left": False, "right": False, "sum": True}


def test_layers_inside_a_model_that_is_used_twice_are_no_legal_cuts() -> None:
    import keras

    from worker.engine.surgery import layer_table

    twin = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d")], name="twin")
    entry = keras.Input((4,), name="entry")
    joined = keras.layers.Concatenate(name="join")([twin(entry), twin(keras.layers.ReLU(name="relu")(entry))])
    rows = {row.path: row for row in layer_table(keras.Model(entry, joined))}
    assert list(rows) == ["entry", "relu", "twin/d", "join"]
    assert "used 2 times" in str(rows["twin/d"].illegal_because)
    assert rows["twin/d"].inputs == [0, 1]
    assert rows["join"].inputs == [2]


# === Cut ===


@pytest.mark.parametrize("path", PATHS[1:])
def test_a_backbone_computes_what_the_source_computes_up_to_the_cut(path: str, nested: Any) -> None:
    from worker.engine.surgery import cut_at, leaf_layers

    backbone = cut_at(source(nested), CutLayer(layer=path))
    np.testing.assert_allclose(numpy(backbone(IMAGES, training=False)), by_hand(nested, path), rtol=1e-5, atol=1e-5)
    rows = source(nested).info.layers
    kept = [row.path for row in kept_rows(rows, resolve_cut(rows, CutLayer(layer=path)))]
    assert ["outside", *(name for name, _ in leaf_layers(backbone))] == kept
    assert backbone.name == "backbone"


@pytest.mark.parametrize(
    ("cut", "path"),
    [
        (DropLast(drop_last=0), "top/dense"),
        (DropLast(drop_last=1), "top/drop"),
        (DropLast(drop_last=3), "inner/relu"),
        (KeepFirst(keep_first=3), "inner/conv1"),
        (CutFraction(fraction=0.75), "pool"),
        (CutLayer(layer="inner"), "inner/relu"),
    ],
)
def test_every_form_of_cut_ends_where_the_table_says(cut: Any, path: str, nested: Any) -> None:
    from worker.engine.surgery import cut_at

    backbone = cut_at(source(nested), cut)
    np.testing.assert_allclose(numpy(backbone(IMAGES, training=False)), by_hand(nested, path), rtol=1e-5, atol=1e-5)


def test_an_illegal_cut_names_the_source_and_the_nearest(nested: Any) -> None:
    from worker.engine.surgery import cut_at

    with pytest.raises(CutError, match=r"Unknown cut layer 'inner/conv_1' in 'photos'. Nearest: 'inner/conv1'"):
        cut_at(source(nested), CutLayer(layer="inner/conv_1"))
    with pytest.raises(CutError, match=r"Nearest: drop_last 7 \(up to 'inner/conv1'\), drop_last 4"):
        cut_at(source(nested), DropLast(drop_last=5))


def test_a_backbone_shares_nothing_with_its_source(nested: Any) -> None:
    from worker.engine import sources
    from worker.engine.surgery import cut_at, leaf_layers

    before, calls = sources.digest(nested), len(nested.get_layer("pool")._inbound_nodes)
    origin = source(nested)
    backbone = cut_at(origin, DropLast(drop_last=1))
    mine = {id(variable) for variable in backbone.variables}
    assert mine.isdisjoint({id(variable) for variable in nested.variables})
    assert {id(layer) for _, layer in leaf_layers(backbone)}.isdisjoint({id(layer) for _, layer in leaf_layers(nested)})
    backbone.trainable = False
    for variable in backbone.variables:
        variable.assign(np.zeros(variable.shape))
    assert sources.digest(nested) == before
    assert len(nested.get_layer("pool")._inbound_nodes) == calls
    assert nested.trainable


def test_operations_between_tensors_are_cloned_too() -> None:
    import keras

    from worker.engine.surgery import cut_at

    entry = keras.Input((4,), name="entry")
    hidden = keras.layers.Dense(4, name="hidden")(entry)
    model = keras.Model(entry, keras.layers.Dense(2, name="out")(keras.ops.relu(hidden * 2.0 + entry)))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    dense = model.get_layer("hidden")
    expected = np.maximum((x @ numpy(dense.kernel) + numpy(dense.bias)) * 2 + x, 0)
    backbone = cut_at(source(model), DropLast(drop_last=1))
    np.testing.assert_allclose(numpy(backbone(x)), expected, rtol=1e-5, atol=1e-6)


def test_an_adapted_normalization_keeps_its_statistics() -> None:
    import keras

    from worker.engine.surgery import cut_at

    x = np.random.default_rng(0).normal(5, 3, size=(100, 4)).astype("float32")
    normalization = keras.layers.Normalization(name="norm")
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(2, name="out")])
    backbone = cut_at(source(model), DropLast(drop_last=1))
    np.testing.assert_allclose(numpy(backbone(x)), (x - x.mean(0)) / x.std(0), atol=1e-4)


# === Random weights ===


def weights(model: Any) -> list[np.ndarray[Any, Any]]:
    return [numpy(weight) for weight in model.weights]


def test_random_weights_follow_from_the_seed_and_nothing_else(nested: Any) -> None:
    import keras

    from worker.engine.surgery import cut_at

    keras.utils.set_random_seed(1)
    first = cut_at(source(nested), DropLast(drop_last=0), seed=5, weights="random")
    keras.utils.set_random_seed(2)
    again = cut_at(source(nested), DropLast(drop_last=0), seed=5, weights="random")
    shorter = cut_at(source(nested), CutLayer(layer="inner/conv2"), seed=5, weights="random")
    other = cut_at(source(nested), DropLast(drop_last=0), seed=6, weights="random")
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    conv2 = [numpy(model.get_layer("inner").get_layer("conv2").kernel) for model in (first, shorter, other, nested)]
    assert np.array_equal(conv2[0], conv2[1])
    assert not np.array_equal(conv2[0], conv2[2])
    assert not np.array_equal(conv2[0], conv2[3])


def test_layers_of_one_shape_get_different_random_weights() -> None:
    import keras

    from worker.engine.surgery import cut_at

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")])
    backbone = cut_at(source(model), DropLast(drop_last=0), seed=5, weights="random")
    assert not np.array_equal(numpy(backbone.get_layer("a").kernel), numpy(backbone.get_layer("b").kernel))


def test_dropout_of_the_backbone_follows_from_the_seed(nested: Any) -> None:
    from worker.engine.surgery import cut_at

    def masks(seed: int) -> list[np.ndarray[Any, Any]]:
        backbone = cut_at(source(nested), DropLast(drop_last=1), seed=seed)
        return [numpy(backbone(IMAGES, training=True)) == 0 for _ in range(8)]

    assert np.array_equal(masks(3), masks(3))
    assert not np.array_equal(masks(3), masks(4))


# === Head ===


def vectors(*shape: int | None) -> Any:
    """A backbone with outputs of this shape."""
    import keras

    entry = keras.Input(shape, name="entry")
    return keras.Model(entry, keras.layers.Identity(name="same")(entry), name="backbone")


@pytest.mark.parametrize(
    ("task", "outputs", "activation"),
    [("binary", 1, "sigmoid"), ("single_label", 3, "softmax"), ("regression", 2, "linear")],
)
def test_the_output_layer_follows_from_the_task(task: Task, outputs: int, activation: str) -> None:
    from worker.engine.surgery import attach_head

    model = attach_head(vectors(4), Head(), task=task, outputs=outputs, seed=1)
    output = model.get_layer("output")
    assert output.activation.__name__ == activation
    assert model.output_shape == (None, outputs)
    x = np.random.default_rng(0).random((3, 4), dtype="float32")
    logits = x @ numpy(output.kernel)
    expected = {
        "sigmoid": lambda: 1 / (1 + np.exp(-logits)),
        "softmax": lambda: np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
        "linear": lambda: logits,
    }[activation]()
    np.testing.assert_allclose(numpy(model(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 4), (5, 6, 4), (3, 5, 6, 4)])
def test_feature_maps_of_any_rank_are_pooled_if_the_head_does_not_say_otherwise(shape: tuple[int, ...]) -> None:
    from worker.engine.surgery import attach_head, leaf_layers

    model = attach_head(vectors(*shape), Head(), task="regression", outputs=1, seed=1)
    assert [path for path, _ in leaf_layers(model)] == ["same", "head_global_average_pooling", "output"]
    x = np.random.default_rng(0).random((2, *shape), dtype="float32")
    pooled = x.mean(axis=tuple(range(1, len(shape))))
    np.testing.assert_allclose(numpy(model(x)), pooled @ numpy(model.get_layer("output").kernel), rtol=1e-4, atol=1e-6)


def test_a_head_is_built_as_it_is_listed() -> None:
    from worker.engine.surgery import attach_head, leaf_layers

    wish = head(
        {"type": "flatten"},
        {"type": "dense", "units": 7, "activation": "selu"},
        {"type": "batch_normalization", "momentum": 0.5},
        {"type": "dense", "units": 5},
        {"type": "layer_normalization"},
        {"type": "activation", "activation": "gelu"},
        {"type": "dropout", "rate": 0.25},
    )
    model = attach_head(vectors(2, 3, 4), wish, task="binary", outputs=1, seed=1)
    layers = dict(leaf_layers(model))
    assert list(layers) == [
        "same", "head_flatten", "head_dense", "head_batch_normalization", "head_dense_2", "head_layer_normalization",
        "head_activation", "head_dropout", "output",
    ]  # fmt: skip
    assert layers["head_dense"].kernel.shape == (24, 7)
    assert layers["head_dense"].activation.__name__ == "selu"
    assert layers["head_dense_2"].activation.__name__ == "relu"
    assert layers["head_batch_normalization"].momentum == 0.5
    assert layers["head_dropout"].rate == 0.25


def test_the_model_trains_the_backbones_own_layers(nested: Any) -> None:
    from worker.engine.surgery import attach_head, cut_at, leaf_layers

    backbone = cut_at(source(nested), DropLast(drop_last=2))
    model = attach_head(backbone, Head(), task="single_label", outputs=3, seed=1)
    assert dict(leaf_layers(backbone)).items() <= dict(leaf_layers(model)).items()


def test_a_head_on_a_head_gets_names_of_its_own() -> None:
    from worker.engine.surgery import attach_head, leaf_layers

    once = attach_head(vectors(4), head({"type": "dense", "units": 4}), task="regression", outputs=4, seed=1)
    twice = attach_head(once, head({"type": "dense", "units": 4}), task="binary", outputs=1, seed=1)
    assert [path for path, _ in leaf_layers(twice)] == ["same", "head_dense", "output", "head_dense_2", "output_2"]


def test_the_heads_weights_follow_from_the_seed_and_differ_between_layers() -> None:
    import keras

    from worker.engine.surgery import attach_head

    def kernels(seed: int) -> list[np.ndarray[Any, Any]]:
        keras.utils.set_random_seed(int(np.random.default_rng().integers(1000)))  # must not matter
        wish = head({"type": "dense", "units": 4}, {"type": "dense", "units": 4})
        return weights(attach_head(vectors(4), wish, task="binary", outputs=1, seed=seed))

    first, again, other = kernels(1), kernels(1), kernels(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[2])


def test_pooling_a_vector_leaves_it_as_it_is() -> None:
    from worker.engine.surgery import attach_head, leaf_layers

    model = attach_head(vectors(4), head({"type": "global_max_pooling"}), task="binary", outputs=1, seed=1)
    assert [path for path, _ in leaf_layers(model)] == ["same", "output"]


def test_the_output_is_float32_on_a_backbone_of_half_precision() -> None:
    import keras

    from worker.engine.surgery import attach_head

    entry = keras.Input((4,), name="entry")
    backbone = keras.Model(entry, keras.layers.Dense(4, dtype="mixed_float16", name="half")(entry))
    model = attach_head(backbone, Head(), task="binary", outputs=1, seed=1)
    assert backbone.outputs[0].dtype == "float16"
    assert model.outputs[0].dtype == "float32"


def test_flattening_a_map_of_free_size_is_refused_with_the_way_out() -> None:
    from worker.engine.surgery import attach_head

    with pytest.raises(UserError, match="Begin the head with global_average_pooling") as caught:
        attach_head(vectors(None, None, 4), head({"type": "flatten"}), task="binary", outputs=1, seed=1)
    assert caught.value.param == "head.layers"


@pytest.mark.parametrize(("task", "outputs"), [("binary", 2), ("single_label", 1), ("regression", 0)])
def test_outputs_that_do_not_fit_the_task_are_refused(task: Task, outputs: int) -> None:
    from worker.engine.surgery import attach_head

    with pytest.raises(UserError, match=f"Task '{task}' cannot have {outputs} outputs"):
        attach_head(vectors(4), Head(), task=task, outputs=outputs, seed=1)
