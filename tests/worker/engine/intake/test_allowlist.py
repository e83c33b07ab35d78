import importlib
from pathlib import Path

import numpy as np
import pytest

from app.domain.model import ModelOptions
from worker.engine.intake import allowlist, vocabularies

pytestmark = pytest.mark.tensorflow

EXPORTED = [
    ("keras.layers", allowlist.LAYERS),
    ("keras.initializers", allowlist.INITIALIZERS),
    ("keras.regularizers", allowlist.REGULARIZERS),
    ("keras.constraints", allowlist.CONSTRAINTS),
    ("keras.activations", allowlist.ACTIVATIONS),
    *allowlist.OPERATIONS.items(),
]


@pytest.mark.parametrize(("module", "names"), EXPORTED, ids=[module for module, _ in EXPORTED])
def test_every_name_on_the_list_is_one_of_keras(module: str, names: frozenset[str]) -> None:
    there = importlib.import_module(module)
    assert [name for name in sorted(names) if not hasattr(there, name)] == []


def test_allowed_classes_are_written_by_keras_under_the_very_names_and_modules_of_the_list() -> None:
    import keras
    from keras.src.saving.serialization_lib import serialize_with_public_class

    for kind in ("layer", "initializer", "regularizer", "constraint", "policy"):
        for name in allowlist.CLASSES[kind] - set(allowlist.BUILDING_BLOCKS):
            owner = keras if kind == "policy" else getattr(keras, f"{kind}s")
            written = serialize_with_public_class(getattr(owner, name, None) or getattr(keras.dtype_policies, name))
            assert allowlist.module_of(kind, written["class_name"], None) == written["module"], name


def test_building_blocks_of_keras_applications_are_registered(tmp_path: Path) -> None:
    import keras

    from worker.engine import sources

    layers = {
        name: getattr(importlib.import_module(module), name) for name, module in allowlist.BUILDING_BLOCKS.items()
    }
    entry = keras.Input((3,), name="entry")
    scaled = layers["LayerScale"](init_values=0.5, projection_dim=3, name="scale")(entry)
    keras.Model(entry, layers["CustomScaleLayer"](scale=0.1, name="sum")([entry, scaled])).save(tmp_path / "m.keras")
    sources.register(tmp_path / "m.keras", tmp_path / "c", options=ModelOptions(), max_parameters=100)
    x = np.array([[1.0, 2.0, 3.0]], "float32")
    np.testing.assert_allclose(sources.load(tmp_path / "c").model(x).numpy(), x + 0.1 * 0.5 * x, rtol=1e-6)


def test_what_is_known_to_be_dangerous_is_on_no_list() -> None:
    everything = set().union(*allowlist.CLASSES.values())
    assert everything.isdisjoint(allowlist.REFUSED)
    assert everything.isdisjoint({"Wrapper", "Layer", "Pipeline", "Switch", "Cond", "Map", "Scan", "WhileLoop"})
    assert not any(module.endswith("core") for module in allowlist.OPERATIONS)


def test_no_allowed_class_takes_a_function_a_file_or_a_model_of_the_callers_choice() -> None:
    import inspect

    import keras

    suspicious = {"function", "fn", "filepath", "path", "file", "vocabulary", "module", "model", "call_endpoint"}
    for name in allowlist.LAYERS:
        checked = {"vocabulary"} if vocabularies.is_lookup(name) else set()  # never the name of a file
        parameters = set(inspect.signature(getattr(keras.layers, name).__init__).parameters)
        assert suspicious.isdisjoint(parameters - checked), name


@pytest.mark.parametrize(
    ("module", "key", "kind"),
    [
        ("keras.layers", "", "layer"),
        ("keras.src.layers.core.dense", "", "layer"),
        ("tf_keras.src.layers.core.dense", "", "layer"),
        ("tensorflow.python.keras.layers.core", "", "layer"),
        ("keras.src.ops.numpy", "", "operation"),
        ("keras.mixed_precision", "", "policy"),
        ("keras", "dtype", "policy"),
        ("keras.utils", "", None),
        ("mine.layers", "", None),
        (None, "layer", "layer"),
        (None, "kernel_initializer", "initializer"),
        (None, "activity_regularizer", "regularizer"),
        (None, "bias_constraint", "constraint"),
        (None, "dtype", "policy"),
    ],
)
def test_what_an_object_is_follows_from_its_module_or_its_place(module: str | None, key: str, kind: str | None) -> None:
    assert allowlist.kind_of(module, key) == kind
