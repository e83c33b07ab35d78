from typing import Any

import pytest

from app.domain.errors import SourceError
from worker.engine.intake.upgrades import upgrade
from worker.engine.intake.vet_config import check_model


def upgraded(config: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The layers as Keras will get them, and what was changed."""
    check_model(config, strict=False)
    result, sentences = upgrade(config)
    check_model(result, strict=True)
    return result["config"]["layers"], sentences


def old(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    """A layer as Keras 2 wrote it."""
    return {"class_name": class_name, "config": {"name": name, **config}}


def old_sequential(*layers: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers), **config}}


INPUT = old("InputLayer", "input", batch_input_shape=[None, 8, 8, 3], dtype="float32", sparse=False, ragged=False)


def test_todays_files_need_nothing(build: Any) -> None:
    assert upgraded(build.mlp())[1] == []


def test_an_input_of_keras_2_gets_todays_name_for_its_shape() -> None:
    (entry, _), sentences = upgraded(old_sequential(INPUT, old("Flatten", "flatten")))
    assert entry["config"] == {"name": "input", "batch_shape": [None, 8, 8, 3], "dtype": "float32", "sparse": False}
    assert sentences == ["`batch_input_shape` became `batch_shape`."]


def test_a_fixed_batch_size_is_made_free_and_told() -> None:
    entry = old("InputLayer", "input", batch_input_shape=[32, 4])
    layers, sentences = upgraded(old_sequential(entry, old("Dense", "d", units=1)))
    assert layers[0]["config"]["batch_shape"] == [None, 4]
    assert "The fixed batch size 32 was made free." in sentences


def test_every_change_is_told_once_with_its_number_of_layers() -> None:
    layers = [old("DepthwiseConv2D", f"d{index}", kernel_size=[3, 3], groups=1) for index in range(3)]
    result, sentences = upgraded(old_sequential(INPUT, *layers))
    assert all("groups" not in layer["config"] for layer in result)
    assert "`groups` was dropped from DepthwiseConv2D, where it changes nothing (3 layers)." in sentences


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (old("BatchNormalization", "x", axis=[3]), {"axis": 3}),
        (old("BatchNormalization", "x", axis=-1), {"axis": -1}),
        (old("LeakyReLU", "x", alpha=0.1), {"negative_slope": 0.1}),
        (old("Embedding", "x", input_dim=9, output_dim=2, input_length=4), {"input_dim": 9, "output_dim": 2}),
        (old("LSTM", "x", units=2, time_major=False), {"units": 2}),
        (old("Dense", "x", units=2, batch_input_shape=[None, 4]), {"units": 2}),
        (
            old("Dense", "x", units=2, dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}),
            {"units": 2, "dtype": "mixed_float16"},
        ),
        (
            old("SeparableConv2D", "x", filters=2, kernel_size=3, kernel_initializer=None),
            {"filters": 2, "kernel_size": 3},
        ),
        (old("ThresholdedReLU", "x", theta=0.5), {"threshold": 0.5}),
        (old("SyncBatchNormalization", "x", axis=[3]), {"axis": 3}),
        (old("BatchNormalizationV1", "x", axis=3), {"axis": 3}),
        (old("GRU", "x", units=2), {"units": 2, "reset_after": False}),
        (old("GRU", "x", units=2, reset_after=True), {"units": 2, "reset_after": True}),
        (old("Attention", "x", causal=False, use_scale=True), {"use_scale": True}),
        (old("Dense", "x", units=2, activation="softmax_v2"), {"units": 2, "activation": "softmax"}),
        (old("Convolution2D", "x", filters=2, kernel_size=3), {"filters": 2, "kernel_size": 3}),
    ],
    ids=lambda value: value.get("class_name", "") if isinstance(value, dict) else "",
)
def test_arguments_of_keras_2_become_todays(layer: dict[str, Any], expected: dict[str, Any]) -> None:
    (_, result), _ = upgraded(old_sequential(INPUT, layer))
    assert result["config"] == {"name": "x", **expected}
    assert result["module"] == "keras.layers"


def test_initializers_of_keras_2_become_todays() -> None:
    kernel = {"class_name": "VarianceScaling", "config": {"scale": 2, "distribution": "normal", "dtype": "float32"}}
    (_, dense), _ = upgraded(old_sequential(INPUT, old("Dense", "d", units=1, kernel_initializer=kernel)))
    assert dense["config"]["kernel_initializer"] == {
        "module": "keras.initializers",
        "class_name": "VarianceScaling",
        "config": {"scale": 2, "distribution": "truncated_normal"},
        "registered_name": None,
    }


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (old("DepthwiseConv2D", "x", kernel_size=3, groups=2), "groups=2"),
        (old("BatchNormalization", "x", axis=[1, 2]), "axes"),
        (old("LSTM", "x", units=2, stateful=True), "stateful"),
        (old("GRU", "x", units=2, time_major=True), "time_major"),
        (old("AdditiveAttention", "x", causal=True), "causal=True"),
        (old("LSTM", "x", units=2, recurrent_activation="hard_sigmoid"), "0.2 x"),
        (old("Activation", "x", activation={"class_name": "function", "config": "hard_sigmoid"}), "0.2 x"),
    ],
)
def test_what_means_something_else_today_is_refused(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        upgraded(old_sequential(INPUT, layer))


@pytest.mark.parametrize(
    ("version", "module", "refused"),
    [("2.15.0", "keras.layers", True), ("2.2.4-tf", None, True), (None, None, True), ("3.0.0", "keras.layers", False),
     (None, "keras.layers", False)],
)  # fmt: skip
def test_hard_sigmoid_is_what_it_was_only_in_files_of_keras_3(
    *, build: Any, version: str | None, module: str | None, refused: bool
) -> None:
    config = build.mlp(activation="hard_sigmoid")
    config["module"] = "keras" if module else None
    if refused:
        with pytest.raises(SourceError, match="compute something else"):
            upgrade(config, keras_version=version)
    else:
        upgrade(config, keras_version=version)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CuDNNLSTM", "plain LSTM"),
        ("LocallyConnected2D", "no more"),
        ("RandomHeight", "no more"),
        ("KerasLayer", "Hub"),
    ],
)
def test_layers_that_keras_3_has_no_more_are_refused_with_the_way_out(name: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        upgraded(old_sequential(INPUT, old(name, "x")))
    assert caught.value.code == "unusable_source"
    assert caught.value.work_code == "class_not_allowed"


# === Sequential ===


def test_a_list_of_layers_is_put_where_keras_3_expects_it() -> None:
    config = {"class_name": "Sequential", "config": [INPUT, old("Flatten", "flatten")]}
    layers, sentences = upgraded(config)
    assert [layer["name"] for layer in layers] == ["input", "flatten"]
    assert any("list of layers" in sentence for sentence in sentences)


@pytest.mark.parametrize("beside", ["first layer", "config", "build_config"])
def test_an_input_shape_that_is_only_noted_becomes_an_input_layer(beside: str) -> None:
    first = old("Dense", "first", units=2)
    config = old_sequential(first)
    if beside == "first layer":
        first["config"]["batch_input_shape"] = [None, 7]
    elif beside == "config":
        config["config"]["build_input_shape"] = [None, 7]
    else:
        config["build_config"] = {"input_shape": [None, 7]}
    layers, _ = upgraded(config)
    assert [layer["class_name"] for layer in layers] == ["InputLayer", "Dense"]
    assert layers[0]["config"]["batch_shape"] == [None, 7]


def test_a_nested_model_in_front_lends_its_input(build: Any) -> None:
    entry = build.layer("InputLayer", "deep", batch_shape=[None, 5], dtype="uint8")
    inner = build.functional(
        build.called(entry), build.called(build.layer("Dense", "a", units=2), build.tensor("deep", 5)), output="a"
    )
    layers, _ = upgraded(build.sequential(build.sequential(inner | {"name": "inner"}, name="middle")))
    assert layers[0]["config"] == {"batch_shape": [None, 5], "dtype": "uint8", "name": "input"}


def test_a_model_that_was_never_built_is_refused_with_the_way_out() -> None:
    with pytest.raises(SourceError, match=r"never built.*keras\.Input"):
        upgraded(old_sequential(old("Dense", "d", units=2)))


# === Functional ===


def old_functional(*layers: dict[str, Any], output: list[Any]) -> dict[str, Any]:
    config = {"name": "model", "layers": list(layers), "input_layers": [["input", 0, 0]], "output_layers": [output]}
    return {"class_name": "Model", "config": config}


def used(layer: dict[str, Any], *references: list[Any]) -> dict[str, Any]:
    return {**layer, "name": layer["config"]["name"], "inbound_nodes": [list(references)] if references else []}


def test_the_class_model_of_keras_2_is_todays_functional() -> None:
    config = old_functional(used(INPUT), used(old("Flatten", "f"), ["input", 0, 0, {}]), output=["f", 0, 0])
    check_model(config, strict=False)
    result, _ = upgrade(config)
    assert (result["module"], result["class_name"]) == ("keras.src.models.functional", "Functional")
    assert result["config"]["output_layers"] == ["f", 0, 0]


def test_slashes_in_names_are_replaced_wherever_the_name_stands() -> None:
    config = old_functional(
        used(INPUT),
        used(old("Conv2D", "block1/conv", filters=1, kernel_size=1), ["input", 0, 0, {}]),
        used(old("ReLU", "block1/relu"), ["block1/conv", 0, 0, {}]),
        output=["block1/relu", 0, 0],
    )
    check_model(config, strict=False)
    result, sentences = upgrade(config)
    layers = result["config"]["layers"]
    assert [layer["name"] for layer in layers] == ["input", "block1_conv", "block1_relu"]
    assert [layer["config"]["name"] for layer in layers] == ["input", "block1_conv", "block1_relu"]
    assert layers[2]["inbound_nodes"] == [[["block1_conv", 0, 0, {}]]]
    assert result["config"]["output_layers"] == ["block1_relu", 0, 0]
    assert any("'/' in names" in sentence and "2 layers" in sentence for sentence in sentences)


def test_arguments_of_calls_that_name_tensors_are_refused() -> None:
    call = ["input", 0, 0, {"value": ["input", 0, 0]}]
    config = old_functional(used(INPUT), used(old("Attention", "a"), call), output=["a", 0, 0])
    with pytest.raises(SourceError, match="called in a way"):
        upgraded(config)


@pytest.mark.parametrize("ends", [None, [], {}, "input", [["input"]], [[["input", 0, 0]]], [["input", "0", 0]]])
def test_a_graph_without_ends_is_refused(ends: Any) -> None:
    config = old_functional(used(INPUT), used(old("Flatten", "f"), ["input", 0, 0, {}]), output=["f", 0, 0])
    config["config"]["input_layers"] = ends
    with pytest.raises(SourceError, match="input_layers"):
        upgraded(config)
