"""The catalogue's table against Keras itself, and models of it in canonical form."""

import inspect
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain import catalogue as names
from app.domain.errors import PlatformError, SourceError, UserError
from app.domain.model import ModelOptions, SourceInfo

pytestmark = pytest.mark.tensorflow

MANY = 500_000_000


def applications() -> dict[str, Any]:
    """Keras' own, by name."""
    import keras

    return {name: found for name, found in vars(keras.applications).items() if inspect.isfunction(found)}


def register(reference: str, destination: Path, *, most: int = MANY, **options: Any) -> SourceInfo:
    from worker.engine import catalogue

    return catalogue.register(reference, destination, options=ModelOptions(**options), max_parameters=most)


def test_the_table_names_all_applications_and_their_options() -> None:
    found = applications()
    assert set(names.APPLICATIONS) == set(found)
    for name, application in names.APPLICATIONS.items():
        parameters = inspect.signature(found[name]).parameters
        assert {"include_top", "weights", "input_shape", "pooling"} <= set(parameters)
        assert ("alpha" in parameters) == (len(application.alphas) > 1), name
        assert ("minimalistic" in parameters) == application.minimalistic, name


@pytest.mark.parametrize("name", sorted(names.APPLICATIONS))
def test_the_table_knows_how_an_application_wants_its_inputs(name: str) -> None:
    import keras

    module = inspect.getmodule(applications()[name])
    assert module is not None
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype("float32")
    modes = {"minus_one_to_one": "tf", "imagenet_mean_std": "torch", "imagenet_bgr_mean": "caffe"}
    mode = modes.get(names.APPLICATIONS[name].rescale)
    expected = x if mode is None else keras.applications.imagenet_utils.preprocess_input(x.copy(), mode=mode)
    np.testing.assert_array_equal(module.preprocess_input(x.copy()), expected)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keras' cache has everything, and loading changes nothing; the URLs that were asked for."""
    from keras.src.models.model import Model
    from keras.src.utils import file_utils

    asked: list[str] = []

    def get_file(fname: str | None = None, origin: str = "", **_: Any) -> str:
        asked.append(origin)
        return fname or origin

    monkeypatch.setattr(file_utils, "get_file", get_file)
    monkeypatch.setattr(Model, "load_weights", lambda *_args, **_options: None)
    return asked


ALL = bool(os.environ.get("THAW_TEST_ALL"))
"""All of the catalogue and its grammar: two minutes. Otherwise one of each family, and the grammar's outer ends."""
FAMILIES = (
    "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "InceptionV3",
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception",
)  # fmt: skip


def test_every_application_passes_the_allow_list_and_has_legal_cuts(downloads: list[str]) -> None:
    """Their graphs as they are with ImageNet's weights; no variable gets memory, so all of it takes seconds."""
    import keras

    from worker.engine import canonical, catalogue
    from worker.engine.intake import uploads
    from worker.engine.intake.vet_config import check_model
    from worker.engine.surgery import layer_table

    chosen = [names.APPLICATIONS[name] for name in (names.APPLICATIONS if ALL else FAMILIES)]
    for application in chosen:
        name = application.name
        with uploads.without_memory(), keras.StatelessScope(initialize_variables=False):
            model = catalogue.called(names.parse(f"keras:{name}"), weights="imagenet")
        check_model(canonical.config_of(model), strict=True)
        assert model.count_params() == application.parameters, name
        assert model.inputs[0].shape == (None, application.input_size, application.input_size, 3), name
        table = layer_table(model)
        assert table[-1].output_shape == [None, 1000], name
        assert sum(row.legal_cut for row in table) > 10, name
        assert table[-2].legal_cut, name
        keras.backend.clear_session()
    assert len(downloads) == len(chosen)
    assert all(url.startswith("https://storage.googleapis.com/") for url in downloads)


def ends_of_the_grammar() -> Iterator[str]:
    """The smallest inputs, and each width, size and variant of those that have several."""
    small = ("InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Small", "VGG16", "Xception")
    for application in (names.APPLICATIONS[name] for name in small):
        yield f"keras:{application.name}?include_top=false&input_size={application.min_input_size}"
        for alpha in _outer(application.alphas):
            yield f"keras:{application.name}?{f'alpha={alpha:g}&' if alpha != 1 else ''}include_top=false"
        for size in _outer(application.top_sizes or ()):
            yield f"keras:{application.name}?input_size={size}"
        if application.minimalistic:
            yield f"keras:{application.name}?minimalistic=true&input_size=96"
    yield "keras:ResNet50?input_size=any&include_top=false&pooling=max"
    yield "keras:DenseNet121?input_size=64&weights=random"


def _outer(values: Sequence[float]) -> Sequence[float]:
    return values if ALL else values[:1]


@pytest.mark.usefixtures("downloads")
def test_keras_takes_what_the_grammar_takes() -> None:
    import keras

    from worker.engine import catalogue
    from worker.engine.intake import uploads

    for reference in ends_of_the_grammar():
        name = names.parse(reference)
        with uploads.without_memory(), keras.StatelessScope(initialize_variables=False):
            model = catalogue.called(name, weights="imagenet" if name.weights == "imagenet" else None)
        assert model.inputs[0].shape == (None, name.input_size, name.input_size, 3), reference
        keras.backend.clear_session()


# === With weights ===


def test_new_weights_are_the_same_each_time_and_offline(tmp_path: Path) -> None:
    reference = "keras:MobileNetV3Small?weights=random&input_size=32&include_top=false&alpha=0.75"
    info = register(reference, tmp_path / "a", labels=None)
    assert register(reference, tmp_path / "b").digest == info.digest
    assert (info.format, info.rescale, info.input_shape) == ("catalogue", "none", [None, 32, 32, 3])
    assert info.origin == str(names.parse(reference))
    assert info.layers[1].path == "rescaling"
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"config.json", "source.json", "weights.safetensors"}


def test_a_model_above_the_limit_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, downloads: list[str]
) -> None:
    with pytest.raises(SourceError, match="3,538,984 parameters; this service takes 1,000,000"):
        register("keras:MobileNetV2", tmp_path / "m", most=1_000_000)
    assert downloads == []
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Nearest: 'MobileNet'"):
        register("keras:mobilenett", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_labels_must_name_every_output(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="1000 outputs, and 2 labels"):
        register("keras:MobileNetV3Small?weights=random&input_size=32", tmp_path / "m", labels=["a", "b"])


@pytest.mark.parametrize("fault", ["no network", "half a file"])
def test_weights_that_cannot_be_had_are_told_with_what_to_do_and_leave_nothing(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras.src.backend import config
    from keras.src.utils import file_utils

    home = tmp_path / "keras_home"
    (home / "models").mkdir(parents=True)
    monkeypatch.setattr(config, "_KERAS_DIR", str(home), raising=False)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(home))
    monkeypatch.setattr("worker.engine.catalogue.keras_home", lambda: str(home))

    def unreachable(*_: Any) -> None:
        import urllib.error

        reason = "Name or service not known"
        raise urllib.error.URLError(reason)

    monkeypatch.setattr(file_utils, "urlretrieve", unreachable)
    if fault == "half a file":
        (home / "models" / "mobilenet_2_5_128_tf.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(PlatformError) as caught:
        register("keras:MobileNet?alpha=0.25&input_size=128", tmp_path / "models" / "m")
    assert caught.value.work_code == "download_failed"
    assert caught.value.retryable
    for part in (f"{home}/models", "storage.googleapis.com", "KERAS_HOME", "keras:MobileNet?alpha=0.25"):
        assert part in caught.value.message
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("keras:MobileNet?alpha=0.25&include_top=false&input_size=96", "mobilenet_2_5_224_tf_no_top.h5"),
        ("keras:MobileNetV2?alpha=0.35&include_top=false", "mobilenet_v2"),
    ],
)
def test_imagenets_weights_come_from_keras_own_cache(
    reference: str, file: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    from keras.src.utils import file_utils

    from worker.engine import sources

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(shared_data / "keras"))
    if not any(file in path.name for path in (shared_data / "keras" / "models").iterdir()):
        pytest.skip(f"{file} is not in the cache")
    name = names.parse(reference)
    info = register(reference, tmp_path / "m")
    assert (info.rescale, info.origin) == ("minus_one_to_one", reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the weights are those for 224 x 224
        plain = getattr(keras.applications, name.application.name)(
            input_shape=(name.input_size, name.input_size, 3), alpha=name.alpha, include_top=False
        )
    x = np.random.default_rng(0).random((2, *plain.inputs[0].shape[1:])).astype("float32") * 2 - 1
    loaded = sources.load(tmp_path / "m").model
    np.testing.assert_array_equal(loaded(x, training=False), plain(x, training=False))
    assert float(np.std(plain(x, training=False))) > 0.1
