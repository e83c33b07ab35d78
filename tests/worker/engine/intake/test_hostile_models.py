"""Files made to do harm, each built here. Every one is refused; none runs, writes, fetches or fills the memory."""

import base64
import marshal
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import SourceError
from app.domain.model import ModelOptions

pytestmark = pytest.mark.tensorflow

Write = Callable[..., Path]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that hostile code would write."""
    return tmp_path / "canary"


@pytest.fixture
def refused(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], SourceError]]:
    """Tries to register a file, and finds that nothing happened but the refusal."""
    import socket

    import keras

    from worker.engine import sources

    def no_network(*_: Any) -> None:
        pytest.fail("a model file opened a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    before = keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format()

    def refuse(path: Path) -> SourceError:
        there = set(tmp_path.rglob("*"))
        with pytest.raises(SourceError) as caught:
            sources.register(path, tmp_path / "canonical", options=ModelOptions(), max_parameters=10_000_000)
        assert set(tmp_path.rglob("*")) == there
        return caught.value

    yield refuse
    assert not canary.exists()
    assert (keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format()) == before


def code_of(canary: Path) -> str:
    """Byte code of a function that writes the canary, as Keras stores lambdas."""
    code = compile(f"open({str(canary)!r}, 'w').write('run')", "lambda", "eval")
    return base64.b64encode(marshal.dumps(code)).decode()


def lambdas(canary: Path) -> dict[str, Any]:
    """The forms in which versions of Keras wrote a Lambda layer's function."""
    code = code_of(canary)
    today = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    return {
        "keras 3": {"function": today},
        "keras 2": {"function": [code, None, None], "function_type": "lambda"},
        "by name": {"function": {"module": "builtins", "class_name": "function", "config": "open"}},
        "of keras": {"function": {"module": "keras.utils", "class_name": "function", "config": "get_file"}},
    }


@pytest.mark.parametrize("form", ["keras 3", "keras 2", "by name", "of keras"])
@pytest.mark.parametrize("container", ["keras", "h5"])
def test_a_lambda_is_not_run(
    *, form: str, container: str, canary: Path, refused: Any, build: Any, keras_file: Write, h5_file: Write
) -> None:
    evil = build.layer("Lambda", "evil", **lambdas(canary)[form])
    config = build.sequential(build.input_layer(4), evil)
    path = keras_file(config) if container == "keras" else h5_file(config, {})
    error = refused(path)
    assert error.work_code == "class_not_allowed"
    assert "'Lambda'" in error.message
    assert "layer 'evil'" in error.message


def test_a_lambda_deep_inside_nested_models_is_found(refused: Any, build: Any, keras_file: Write, canary: Path) -> None:
    config = build.layer("Lambda", "evil", **lambdas(canary)["keras 3"])
    for depth in range(5):
        config = build.sequential(build.input_layer(4), config, name=f"level{depth}")
    assert "'Lambda'" in refused(keras_file(config)).message


def test_a_layer_that_runs_another_file_does_not(refused: Any, build: Any, keras_file: Write, tmp_path: Path) -> None:
    evil = build.layer("TFSMLayer", "evil", filepath=str(tmp_path), call_endpoint="serve")
    assert "'TFSMLayer'" in refused(keras_file(build.sequential(build.input_layer(4), evil))).message


def test_a_vocabulary_is_not_read_from_this_machine(refused: Any, build: Any, keras_file: Write) -> None:
    evil = build.layer("StringLookup", "evil", vocabulary="/etc/hostname")
    assert "names the file '/etc/hostname'" in refused(keras_file(build.sequential(build.input_layer(1), evil))).message


def test_a_custom_class_whose_name_is_registered_in_this_process_is_not_built(
    refused: Any, build: Any, keras_file: Write, canary: Path
) -> None:
    import keras

    @keras.saving.register_keras_serializable("thaw_test")
    class Evil(keras.layers.Layer):
        def __init__(self, **_: Any) -> None:
            canary.write_text("run")
            super().__init__()

    evil = build.layer("Evil", "evil", module="builtins") | {"registered_name": "thaw_test>Evil"}
    disguised = build.layer("Dense", "evil", units=1) | {"registered_name": "thaw_test>Evil"}
    for node in (evil, disguised):
        assert refused(keras_file(build.sequential(build.input_layer(4), node))).work_code == "class_not_allowed"


def test_no_exported_function_of_keras_can_be_called_from_a_file(build: Any) -> None:
    """All of them, in every place where a function may be named: only activations pass, and only as their names."""
    import types

    from keras.src.api_export import REGISTERED_NAMES_TO_OBJS

    from worker.engine.intake import allowlist
    from worker.engine.intake.upgrades import upgrade
    from worker.engine.intake.vet_config import check_model

    functions = [name for name, thing in REGISTERED_NAMES_TO_OBJS.items() if isinstance(thing, types.FunctionType)]
    assert len(functions) > 500
    passed = set()
    for full in functions:
        module, _, name = full.rpartition(".")
        gadget = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        switch = build.layer("Switch", "evil", module="keras.src.ops.core", true_fn=gadget)
        config = build.mlp(activation=gadget)
        try:
            check_model(config, strict=False)
        except SourceError:
            continue
        given = upgrade(config)[0]["config"]["layers"][1]["config"]["activation"]
        assert given == name
        passed.add(name)
        with pytest.raises(SourceError):
            check_model(build.sequential(build.input_layer(4), switch), strict=False)
    assert passed <= allowlist.ACTIVATIONS


def test_an_operation_that_calls_what_it_is_given_is_refused(
    refused: Any, build: Any, keras_file: Write, canary: Path
) -> None:
    """A dead node, none of whose arguments is a tensor, ran while the model was loaded."""
    save = {"module": "keras.utils", "class_name": "function", "config": "plot_model", "registered_name": "plot_model"}
    switch = build.layer("Switch", "evil", module="keras.src.ops.core") | {"registered_name": "Switch"}
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(build.layer("Dense", "a", units=2), build.tensor("input", 4)),
        build.called(switch, 0, [save], str(canary)),
        output="a",
    )
    assert "'Switch'" in refused(keras_file(config)).message


def test_an_allowed_operation_on_constants_alone_is_refused(refused: Any, build: Any, keras_file: Write) -> None:
    add = build.layer("Add", "evil", module="keras.src.ops.numpy") | {"registered_name": "Add"}
    config = build.functional(
        build.called(build.input_layer(4)),
        build.called(build.layer("Dense", "a", units=2), build.tensor("input", 4)),
        build.called(add, 1.0, 2.0),
        output="a",
    )
    assert "would run while it is loaded" in refused(keras_file(config)).message


# === Bombs ===


@pytest.mark.parametrize(
    ("layers", "shape", "said"),
    [
        ([("Dense", {"units": 200_000}), ("Dense", {"units": 200_000})], (4,), "40,001,"),
        ([("Embedding", {"input_dim": 2**40, "output_dim": 64})], (4,), "parameters"),
        ([("LSTM", {"units": 1_000_000})], (4, 4), "parameters"),
        ([("PReLU", {})], (2**25,), "parameters"),
        ([("Normalization", {})], (2**24,), "parameters"),
        ([("RepeatVector", {"n": 2**31})], (4,), "for each example"),
        ([("UpSampling2D", {"size": [100_000, 100_000]})], (4, 4, 1), "for each example"),
        ([("ZeroPadding2D", {"padding": 1_000_000})], (4, 4, 1), "for each example"),
        ([("Resizing", {"height": 10**6, "width": 10**6})], (4, 4, 1), "for each example"),
        ([("Flatten", {})] + [("RepeatVector", {"n": 2000}), ("Flatten", {})] * 4, (4,), "for each example"),
    ],
    ids=lambda value: value[-1][0] if isinstance(value, list) else "",
)
def test_a_small_file_that_asks_for_much_memory_is_refused_without_it(
    *,
    layers: list[tuple[str, dict[str, Any]]],
    shape: tuple[int, ...],
    said: str,
    refused: Any,
    build: Any,
    keras_file: Write,
) -> None:
    nodes = [build.layer(name, f"bomb{index}", **config) for index, (name, config) in enumerate(layers)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refused(keras_file(build.sequential(build.input_layer(*shape), *nodes)))
    assert error.work_code == "model_too_large"
    assert said in error.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # KiB


def test_weights_of_another_shape_are_refused(refused: Any, build: Any, keras_file: Write) -> None:
    wrong = build.MLP_WEIGHTS | {"layers/dense/vars/0": np.zeros((4, 4), "float32")}
    error = refused(keras_file(build.mlp(), weights=wrong))
    assert error.work_code == "corrupt_file"
    assert "'hidden'" in error.message or "dense" in error.message.lower()


def test_weights_that_lack_a_layer_are_refused(refused: Any, build: Any, keras_file: Write) -> None:
    lacking = {name: array for name, array in build.MLP_WEIGHTS.items() if "dense_1" not in name}
    assert refused(keras_file(build.mlp(), weights=lacking)).work_code == "corrupt_file"


def test_weights_in_another_file_are_not_read(refused: Any, build: Any, keras_file: Write, tmp_path: Path) -> None:
    import h5py

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12 * 4))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in build.MLP_WEIGHTS.items():
            outside = [(str(secret), 0, 12 * 4)] if name == "layers/dense/vars/0" else None
            stored = file.create_dataset(name, array.shape, "f4", external=outside)
            if outside is None:
                stored[...] = array
    error = refused(keras_file(build.mlp(), weights=(tmp_path / "w.h5").read_bytes()))
    assert error.work_code == "unsafe_file"
    assert "another file" in error.message


def test_the_honest_file_that_these_are_made_of_is_registered(build: Any, keras_file: Write, tmp_path: Path) -> None:
    from worker.engine import sources

    path = keras_file(build.mlp())
    sources.register(path, tmp_path / "c", options=ModelOptions(), max_parameters=1000)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    w = build.MLP_WEIGHTS
    hidden = np.maximum(x @ w["layers/dense/vars/0"] + w["layers/dense/vars/1"], 0)
    logits = hidden @ w["layers/dense_1/vars/0"] + w["layers/dense_1/vars/1"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    model = sources.load(tmp_path / "c").model
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5)
