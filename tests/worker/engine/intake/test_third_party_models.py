"""Ten real models that strangers saved with Keras 2.0 to 3.9: each works, or is refused with its reason."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.domain.cuts import one_tensor_wide, resolve_cut
from app.domain.errors import CutError, SourceError
from app.domain.head import Head
from app.domain.model import ModelOptions, SourceInfo
from app.domain.spec import CutLayer, DropLast

pytestmark = pytest.mark.tensorflow


@dataclass(frozen=True)
class Expected:
    """What each file is, as its authors' code or its own config says."""

    version: str
    class_name: str
    shapes: tuple[list[int | None], list[int | None]]
    rows: int
    some: dict[str, str]
    upgraded: tuple[str, ...] = ()


TEACHABLE = "AIAnytime__Waste-Classifier-Sustainability-App__keras_model.h5"
RESNET = "mlcommons__tiny__pretrainedResnet.h5"
WAKEWORD = "mlcommons__tiny__str_ww_ref_model.h5"
XCEPTION = "oarriaga__face_classification__fer2013_mini_XCEPTION.102-0.66.hdf5"
PYZZLE = "Keithsel__Pyzzle__model.keras"
NLF = "57cell__nlf-classifier__model.keras"
TENNIS = "CenturionTheMan__TennisPredictor__nn_model.keras"
DIGITS = "NhanPhamThanh-IT__Handwritten-Digits-Classification__model.keras"
FASHION = "cvishakh__image_prediction_on_Fashion_MNIST__fashion_mnist_model.keras"
SAVED_MODEL = "mlcommons__tiny__kws_ref_model"

MODELS = {
    TEACHABLE: Expected(
        "2.4.0",
        "Sequential",
        ([None, 224, 224, 3], [None, 4]),
        158,
        {
            "sequential_1/model1/Conv1": "Conv2D",
            "sequential_1/model1/block_12_add": "Add",
            "sequential_1/model1/out_relu": "ReLU",
            "sequential_1/global_average_pooling2d_GlobalAveragePooling2D1": "GlobalAveragePooling2D",
            "sequential_3/dense_Dense2": "Dense",
        },
        ("`groups` was dropped from DepthwiseConv2D, where it changes nothing (17 layers).",),
    ),
    RESNET: Expected(
        "2.4.0",
        "Functional",
        ([None, 32, 32, 3], [None, 10]),
        30,
        {"add_2": "Add", "average_pooling2d": "AveragePooling2D"},
    ),
    WAKEWORD: Expected(
        "2.14.0",
        "Functional",
        ([None, 30, 1, 40], [None, 3]),
        23,
        {"depthwise_conv2d_3": "DepthwiseConv2D", "dropout_3": "Dropout"},
        ("`groups` was dropped from DepthwiseConv2D, where it changes nothing (4 layers).",),
    ),
    XCEPTION: Expected(
        "2.0.5", "Functional", ([None, 64, 64, 1], [None, 7]), 46, {"add_4": "Add", "predictions": "Activation"}
    ),
    PYZZLE: Expected(
        "2.13.1",
        "Sequential",
        ([None, 28, 28, 1], [None, 9]),
        8,
        {"conv2d_1": "Conv2D", "dense": "Dense"},
        ("Weights were found by the order of the layers, for Keras 2 numbered them in another way.",),
    ),
    NLF: Expected("2.15.0", "Sequential", ([None, 40], [None, 1]), 7, {"dense_2": "Dense"}),
    TENNIS: Expected("3.9.0", "Sequential", ([None, 3], [None, 1]), 8, {"dense_69": "Dense"}),
    DIGITS: Expected("3.8.0", "Sequential", ([None, 28, 28, 1], [None, 10]), 9, {"flatten_2": "Flatten"}),
    FASHION: Expected("3.8.0", "Sequential", ([None, 28, 28, 1], [None, 10]), 8, {"max_pooling2d_3": "MaxPooling2D"}),
}


@pytest.fixture(scope="module")
def registered(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[SourceInfo, Path]]:
    """Registers a file once for all tests of this module."""
    from worker.engine import sources

    done: dict[str, tuple[SourceInfo, Path]] = {}

    def register(name: str) -> tuple[SourceInfo, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp("models") / "canonical"
            path = shared_data / "third_party_models" / name
            done[name] = (sources.register(path, folder, options=ModelOptions(), max_parameters=10_000_000), folder)
        return done[name]

    return register


def stored_arrays(path: Path) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """The model's arrays in a file, read with h5py alone, in any order; not its optimizer's or metrics'."""
    source: Any = path
    if zipfile.is_zipfile(path):
        source = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
    found: list[tuple[str, np.ndarray[Any, Any]]] = []
    with h5py.File(source, "r") as file:
        file.visititems(lambda name, item: found.append((name, item[()])) if isinstance(item, h5py.Dataset) else None)
    return [(name, array) for name, array in found if not name.startswith(("optimizer", "metrics"))]


def test_no_file_was_forgotten(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "third_party_models").iterdir()} == {*MODELS, SAVED_MODEL}


@pytest.mark.parametrize("name", MODELS)
def test_the_layer_table_is_the_one_of_the_model(name: str, registered: Any) -> None:
    expected, (info, _) = MODELS[name], registered(name)
    assert (info.keras_version, info.class_name) == (expected.version, expected.class_name)
    assert (info.input_shape, info.output_shape) == expected.shapes
    assert len(info.layers) == expected.rows
    classes = {row.path: row.class_name for row in info.layers}
    assert expected.some.items() <= classes.items()
    assert set(expected.upgraded) <= set(info.upgrades)
    assert [row.legal_cut for row in info.layers] == [False] + [True] * (expected.rows - 1)
    assert info.layers[-1].output_shape == info.output_shape


@pytest.mark.parametrize("name", MODELS)
def test_every_number_in_the_file_is_in_the_registered_model(name: str, registered: Any, shared_data: Path) -> None:
    from worker.engine import canonical

    info, folder = registered(name)
    stored = stored_arrays(shared_data / "third_party_models" / name)
    kept = canonical.read(folder)[1]
    assert info.parameters == sum(array.size for _, array in stored) == sum(array.size for array in kept.values())
    assert sorted(array.tobytes() for _, array in stored) == sorted(array.tobytes() for array in kept.values())


@pytest.mark.parametrize("name", [TEACHABLE, RESNET, WAKEWORD, XCEPTION])
def test_every_array_is_at_the_layer_whose_name_it_has_in_the_file(
    name: str, registered: Any, shared_data: Path
) -> None:
    from worker.engine import canonical

    _, folder = registered(name)
    kept = canonical.read(folder)[1]
    by_layer = {(key.split("/")[-2], key.rpartition(".")[2]): array for key, array in kept.items()}
    layers = {layer for layer, _ in by_layer}
    for path, array in stored_arrays(shared_data / "third_party_models" / name):
        # `model_weights/<layer of the outermost model>/<layer>/<variable>:0`; Keras 2.0 added numbers to the latter.
        _, outer, layer, variable = path.removesuffix(":0").split("/")
        owner = layer if layer in layers else outer
        # The kernels of depthwise layers are called kernels now.
        known = variable if (owner, variable) in by_layer else variable.removeprefix("depthwise_")
        np.testing.assert_array_equal(by_layer[owner, known], array, err_msg=path)


@pytest.mark.parametrize("name", [TENNIS, DIGITS, FASHION, RESNET])
def test_the_registered_model_computes_what_plain_keras_computes(name: str, registered: Any, shared_data: Path) -> None:
    import keras

    from worker.engine import sources

    info, folder = registered(name)
    plain = keras.saving.load_model(shared_data / "third_party_models" / name, compile=False)
    x = np.random.default_rng(0).random((3, *info.input_shape[1:]), dtype="float32")
    # As old files are read by Keras, some models take and give lists of one.
    received = keras.tree.flatten(plain(x if info.class_name == "Sequential" else [x], training=False))[0]
    np.testing.assert_array_equal(sources.load(folder).model(x).numpy(), received.numpy())


def test_the_tennis_model_computes_what_its_arrays_say(registered: Any, shared_data: Path) -> None:
    from worker.engine import sources

    arrays = dict(stored_arrays(shared_data / "third_party_models" / TENNIS))
    x = np.random.default_rng(0).random((5, 3), dtype="float32")
    value = x
    for layer in ("dense", "dense_1", "dense_2"):
        value = np.maximum(value @ arrays[f"layers/{layer}/vars/0"] + arrays[f"layers/{layer}/vars/1"], 0)
    logit = value @ arrays["layers/dense_3/vars/0"] + arrays["layers/dense_3/vars/1"]
    model = sources.load(registered(TENNIS)[1]).model
    np.testing.assert_allclose(model(x).numpy(), 1 / (1 + np.exp(-logit)), rtol=1e-4)


def test_teachable_machines_backbone_can_be_cut_inside_and_gets_a_head(registered: Any) -> None:
    from worker.engine import sources, surgery

    info, folder = registered(TEACHABLE)
    source = sources.load(folder)
    path = "sequential_1/model1/block_12_add"
    backbone = surgery.cut_at(source, CutLayer(layer=path))
    assert backbone.output_shape == tuple(next(row.output_shape for row in info.layers if row.path == path) or ())
    model = surgery.attach_head(backbone, Head(), task="single_label", outputs=6, seed=1)
    x = np.random.default_rng(0).random((2, 224, 224, 3), dtype="float32")
    np.testing.assert_allclose(model(x, training=False).numpy().sum(axis=1), [1, 1], rtol=1e-5)
    assert sources.digest(source.model) == info.digest


def test_counting_into_teachable_machines_residual_blocks_is_refused(registered: Any) -> None:
    info, _ = registered(TEACHABLE)
    names = [row.path.rpartition("/")[2] for row in info.layers]
    wide = one_tensor_wide(info.layers)
    inside = names.index("block_12_project")
    assert not wide[inside]
    assert wide[names.index("block_12_add")]
    with pytest.raises(CutError, match="block_12_add"):
        resolve_cut(info.layers, DropLast(drop_last=len(names) - 1 - inside))


def test_a_saved_model_is_refused_with_the_way_out(shared_data: Path, tmp_path: Path) -> None:
    from worker.engine import sources

    folder = shared_data / "third_party_models" / SAVED_MODEL
    for path in (folder, folder / "saved_model.pb"):
        with pytest.raises(SourceError, match=r"SavedModel.*model\.save\('model\.keras'\)") as caught:
            sources.register(path, tmp_path / "c", options=ModelOptions(), max_parameters=10_000_000)
        assert caught.value.work_code == "unsupported_format"


def test_weights_of_keras_applications_without_architecture_are_refused(shared_data: Path, tmp_path: Path) -> None:
    from worker.engine import sources

    path = shared_data / "keras" / "models" / "mobilenet_2_5_224_tf_no_top.h5"
    with pytest.raises(SourceError, match="weights without the model's architecture"):
        sources.register(path, tmp_path / "c", options=ModelOptions(), max_parameters=10_000_000)
