import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.errors import SourceError
from worker.engine.intake.upgrades import upgrade
from worker.engine.intake.vet_config import check_model


def accept(config: Any) -> Any:
    """What Keras would be given, after both rounds of checks."""
    check_model(config, strict=False)
    upgraded, _ = upgrade(config)
    check_model(upgraded, strict=True)
    return upgraded


def refusal(config: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        accept(config)
    return caught.value


# === Honest configs ===


def test_plain_models_are_accepted_unchanged_in_meaning(build: Any) -> None:
    upgraded = accept(build.mlp())
    assert [layer["class_name"] for layer in upgraded["config"]["layers"]] == ["InputLayer", "Dense", "Dense"]
    assert upgraded["config"]["layers"][1]["config"]["units"] == 3


def test_a_function_is_accepted_by_the_name_of_an_activation_only(build: Any) -> None:
    named = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
    assert accept(build.mlp(activation=named))["config"]["layers"][1]["config"]["activation"] == "relu"


def test_sums_of_tensors_are_accepted(build: Any) -> None:
    plus = build.layer("Add", "add", module="keras.src.ops.numpy") | {"registered_name": "Add"}
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(build.layer("Dense", "a", units=4), build.tensor("input", 4)),
        build.called(plus, build.tensor("input", 4), build.tensor("a", 4)),
        output="add",
    )
    assert accept(config)["config"]["layers"][2]["module"] == "keras.src.ops.numpy"


# === What is named ===

GET_FILE = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"module": "keras.layers", "class_name": "Lambda"}, "runs Python code"),
        ({"module": None, "class_name": "Lambda"}, "runs Python code"),
        ({"module": "keras.layers", "class_name": "TFSMLayer"}, "opens another file"),
        ({"module": "keras.layers", "class_name": "TorchModuleWrapper"}, "another framework"),
        ({"module": "keras.layers", "class_name": "IntegerLookup"}, "texts"),
        ({"module": None, "class_name": "TFOpLambda"}, "TensorFlow functions by name"),
        ({"module": "keras.layers", "class_name": "FeatureSpace"}, "not on the list"),
        ({"module": "my_package", "class_name": "Dense"}, "not on the list"),
        ({"module": "keras.layers", "class_name": "Dense", "registered_name": "mine>Dense"}, "custom class"),
        ({"module": "keras.src.ops.core", "class_name": "Switch"}, "not on the list"),
        ({"module": "keras.src.ops.numpy", "class_name": "Tile"}, "not on the list"),
        ({"module": "keras.ops", "class_name": "Add"}, "not on the list"),
        ({"module": "keras.utils", "class_name": "get_file"}, "not on the list"),
        ({"module": "builtins", "class_name": "eval"}, "not on the list"),
        ({"module": "os", "class_name": "system"}, "not on the list"),
    ],
)
def test_layers_off_the_list_are_refused_by_name(node: dict[str, Any], said: str, build: Any) -> None:
    hostile = build.layer("Dense", "bad") | node
    error = refusal(build.sequential(build.input_layer(4), hostile))
    assert error.work_code == "class_not_allowed"
    assert said in error.message
    assert "layer 'bad'" in error.message


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "get_file"},
        {"activation": "mine>swish"},
        {"activation": GET_FILE},
        {"activation": {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "eval"}},
        {"activation": {"class_name": "__lambda__", "config": {"value": ["", None, None]}}},
        {"activation": {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "l"}}},
        {"kernel_initializer": "get_file"},
        {"kernel_initializer": {"module": "keras.utils", "class_name": "get_file", "config": {}}},
        {"kernel_initializer": GET_FILE},
        {"kernel_regularizer": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {}}},
        {"kernel_constraint": {"module": "mine", "class_name": "MaxNorm", "config": {}}},
        {"anything": [{"deep": {"module": "keras.models", "class_name": "load_model", "config": {}}}]},
        {"anything": {"class_name": "__typespec__", "config": [], "spec_name": "TensorSpec", "module": "tensorflow"}},
        {"anything": {"class_name": "__bytes__", "config": {"value": "x"}}},
        {"dtype": {"module": "keras", "class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}},
    ],
    ids=range(15),
)
def test_arguments_that_name_anything_off_the_list_are_refused(change: dict[str, Any], build: Any) -> None:
    error = refusal(build.mlp(**change))
    assert error.work_code == "class_not_allowed"
    assert "'hidden'" in error.message


@pytest.mark.parametrize(
    "dtype", ["string", "int4", "mine", {"class_name": "DTypePolicy", "config": {"name": "int8_from_float32"}}]
)
def test_other_dtypes_are_refused(dtype: Any, build: Any) -> None:
    if isinstance(dtype, dict):
        dtype = {"module": "keras", **dtype}
    assert "dtype" in refusal(build.mlp(dtype=dtype)).message


def test_models_inside_layers_are_looked_into(build: Any) -> None:
    inner = build.sequential(build.input_layer(4), build.layer("Lambda", "evil"))
    config = build.sequential(build.input_layer(2, 4), build.layer("TimeDistributed", "each", layer=inner))
    assert "layer 'evil'" in refusal(config).message


# === Calls ===


@pytest.mark.parametrize(
    "use",
    [
        {"args": [], "kwargs": {}},
        {"args": [1.0, [2.0]], "kwargs": {}},
        {"args": [{"class_name": "__numpy__", "config": {"value": [1.0], "dtype": "float32"}}], "kwargs": {}},
        [],
        {},
    ],
)
def test_a_call_without_a_tensor_is_refused_for_it_would_run_while_loading(use: Any, build: Any) -> None:
    dead = build.called(build.layer("Dense", "dead", units=1), 1) | {"inbound_nodes": [use]}
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(build.layer("Dense", "a", units=4), build.tensor("input", 4)),
        dead,
        output="a",
    )
    error = refusal(config)
    assert error.work_code == "unsafe_file"
    assert "'dead'" in error.message


def test_arguments_of_calls_are_looked_into(build: Any) -> None:
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(build.layer("Dense", "a", units=4), build.tensor("input", 4), mask=GET_FILE),
        output="a",
    )
    assert refusal(config).work_code == "class_not_allowed"


# === Shapes and layouts ===


def test_an_input_of_a_billion_numbers_is_refused(build: Any) -> None:
    error = refusal(build.sequential(build.input_layer(1024, 1024, 1024), build.layer("Flatten", "flatten")))
    assert error.work_code == "model_too_large"


@pytest.mark.parametrize("flag", ["sparse", "ragged"])
def test_sparse_and_ragged_inputs_are_refused(flag: str, build: Any) -> None:
    entry = build.layer("InputLayer", "input", batch_shape=[None, 4], **{flag: True})
    assert "dense ones only" in refusal(build.sequential(entry, build.layer("Dense", "d", units=1))).message


def test_channels_first_is_refused(build: Any) -> None:
    pooling = build.layer("MaxPooling2D", "pool", data_format="channels_first")
    assert "channels_last" in refusal(build.sequential(build.input_layer(3, 8, 8), pooling)).message


@pytest.mark.parametrize("name", ["..", ".", "a\x00b", "x" * 300, "line\nbreak"])
def test_names_that_are_no_names_are_refused(name: str, build: Any) -> None:
    assert "has the name" in refusal(build.sequential(build.input_layer(4), build.layer("Dense", name))).message


# === Nonsense ===


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*at, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "relu", "Dense", "Lambda"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["class_name", "config", "module", "name", "layers", "x"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nonsense_anywhere_in_a_config_is_refused_or_harmless_and_never_another_error(
    data: st.DataObject, build: Any
) -> None:
    nested = build.functional(
        build.called(build.input_layer(4)),
        build.called(
            build.layer("Dense", "a", units=4, kernel_initializer=None), build.tensor("input", 4), training=False
        ),
        output="a",
        name="inner",
    )
    old_call = {"name": "old", "inbound_nodes": [[["inner", 1, 0, {}]]]}
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(nested, build.tensor("input", 4)) | {"name": "inner"},
        build.layer("Dense", "old", units=2, module=None) | old_call,
        output="old",
    )
    config = copy.deepcopy(config)
    *path, last = data.draw(st.sampled_from([place for place in _places(config) if place]))
    place = config
    for key in path:
        place = place[key]
    place[last] = data.draw(JSON)
    try:
        accept(config)
    except SourceError as error:
        assert error.message  # noqa: PT017 (being accepted is right, too)
