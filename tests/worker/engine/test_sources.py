from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import PlatformError, SourceError
from app.domain.model import ModelOptions, SourceInfo

pytestmark = pytest.mark.tensorflow

MANY = 500_000_000


def numpy(tensor: Any) -> np.ndarray[Any, Any]:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


def register(path: Path, destination: Path, *, most: int = MANY, **options: Any) -> SourceInfo:
    from worker.engine import sources

    return sources.register(path, destination, options=ModelOptions(**options), max_parameters=most)


def refusal(path: Path, destination: Path, **options: Any) -> SourceError:
    """Why a file was refused; nothing may be left of it."""
    before = set(destination.parent.iterdir())
    with pytest.raises(SourceError) as caught:
        register(path, destination, **options)
    assert set(destination.parent.iterdir()) == before
    return caught.value


def classifier() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="photo"),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2", name="top"),
        ],
        name="classifier",
    )


def result_of_a_job() -> Any:
    """As Thaw exports them: preprocessing in front, the trained model nested, raw bytes in."""
    import keras

    x = np.random.default_rng(0).random((50, 3)).astype("float32")
    normalization = keras.layers.Normalization(name="normalize")
    normalization.adapt(x)
    raw = keras.Input((None, None, 3), dtype="uint8", name="raw")
    tensor = keras.layers.Resizing(8, 8, name="resize")(raw)
    tensor = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(tensor)
    tensor = normalization(tensor)
    entry = keras.Input((8, 8, 3), name="entry")
    inner = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Conv2D(2, 3, name="conv")(entry))
    inner = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="output")(inner)
    return keras.Model(raw, keras.Model(entry, inner, name="model")(tensor), name="exported")


def branched() -> Any:
    import keras

    entry = keras.Input((6,), name="entry")
    hidden = keras.layers.Dense(6, kernel_constraint="max_norm", name="hidden")(entry)
    return keras.Model(entry, keras.layers.Dense(2, name="out")(keras.ops.relu(hidden + entry)), name="branched")


def recurrent() -> Any:
    import keras

    tokens = keras.Input((5,), dtype="int32", name="tokens")
    vectors = keras.layers.Embedding(20, 4, name="embed")(tokens)
    both = keras.layers.Bidirectional(keras.layers.LSTM(3), name="both")(vectors)
    attended = keras.layers.MultiHeadAttention(2, 4, name="attend")(vectors, vectors)
    pooled = keras.layers.GlobalMaxPooling1D(name="pool")(keras.layers.LayerNormalization(name="norm")(attended))
    joined = keras.layers.Concatenate(name="join")([both, pooled])
    return keras.Model(tokens, keras.layers.Dense(1, name="out")(joined), name="recurrent")


MODELS = [classifier, result_of_a_job, branched, recurrent]


def inputs_for(model: Any) -> np.ndarray[Any, Any]:
    shape = [5, *(12 if side is None else side for side in model.inputs[0].shape[1:])]
    return (np.random.default_rng(3).random(shape) * 10).astype(model.inputs[0].dtype)


def moved(model: Any) -> Any:
    """The model with weights that are not their initial ones; those of Normalization were learnt from data."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name not in ("mean", "variance", "count"):
            weight.assign(numpy(weight) + random.random(weight.shape) * 0.5)
    return model


# === Canonical form ===


@pytest.mark.parametrize("make", MODELS)
def test_a_canonical_model_computes_what_the_model_computes(make: Callable[[], Any], tmp_path: Path) -> None:
    from worker.engine import sources

    model = moved(make())
    info = sources.write_canonical(model, tmp_path / "m", rescale="none", labels=["a"])
    source = sources.load(tmp_path / "m")
    x = inputs_for(model)
    np.testing.assert_array_equal(numpy(source.model(x, training=False)), numpy(model(x, training=False)))
    assert source.info == info
    assert info.digest == sources.digest(model) == sources.digest(source.model)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"config.json", "weights.safetensors", "source.json"}
    assert info.parameters == model.count_params()
    assert (info.rescale, info.labels) == ("none", ["a"])


def test_what_is_known_of_a_model_is_stored_with_it(tmp_path: Path) -> None:
    import keras

    from worker.engine import sources

    info = sources.write_canonical(classifier(), tmp_path / "m")
    assert (info.class_name, info.name, info.format) == ("Sequential", "classifier", "keras")
    assert (info.input_shape, info.input_dtype, info.output_shape) == ([None, 8, 8, 3], "float32", [None, 3])
    assert info.keras_version == keras.__version__
    assert [row.path for row in info.layers] == ["photo", "conv", "bn", "flat", "drop", "top"]


def test_equal_models_have_equal_digests_and_any_weight_or_argument_changes_them(tmp_path: Path) -> None:
    import keras

    from worker.engine import sources

    keras.utils.set_random_seed(1)
    model = branched()
    sources.write_canonical(model, tmp_path / "m")
    same = sources.load(tmp_path / "m").model
    assert sources.digest(model) == sources.digest(same)
    same.get_layer("out").bias.assign([0.0, np.nextafter(np.float32(0), np.float32(1))])
    assert sources.digest(model) != sources.digest(same)
    keras.utils.set_random_seed(1)
    other = branched()
    other.get_layer("hidden").use_bias = False
    assert sources.digest(model) != sources.digest(other)


def test_batch_norm_statistics_are_part_of_the_digest() -> None:
    from worker.engine import sources

    model = classifier()
    before = sources.digest(model)
    model.get_layer("bn").moving_variance.assign(np.full(4, 1.0001))
    assert sources.digest(model) != before


def test_freezing_layers_or_compiling_does_not_change_the_digest() -> None:
    from worker.engine import sources

    model = classifier()
    before = sources.digest(model)
    model.get_layer("conv").trainable = False
    model.compile("adam", "mse")
    assert sources.digest(model) == before


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_changed_file_is_noticed(name: str, tmp_path: Path) -> None:
    from worker.engine import sources

    sources.write_canonical(classifier(), tmp_path / "m")
    path = tmp_path / "m" / name
    content = bytearray(path.read_bytes())
    at = content.rindex(b"top") if name == "config.json" else len(content) - 1
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="not what was registered") as caught:
        sources.load(tmp_path / "m")
    assert caught.value.work_code == "source_changed"


def test_a_canonical_folder_off_the_allow_list_is_not_opened_whatever_its_digest(
    tmp_path: Path, build_lambda: Any
) -> None:
    from worker.engine import canonical, sources

    info = sources.write_canonical(classifier(), tmp_path / "m")
    config, weights, _ = canonical.read(tmp_path / "m")
    config["config"]["layers"][1] = build_lambda
    hostile = info.model_copy(update={"digest": canonical.digest_of(config, weights)})
    canonical.write(tmp_path / "m", config, weights, hostile)
    with pytest.raises(SourceError, match="runs Python code"):
        sources.load(tmp_path / "m")


@pytest.fixture
def build_lambda() -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil"}, "registered_name": None}


def test_writing_again_replaces_the_folder(tmp_path: Path) -> None:
    from worker.engine import sources

    sources.write_canonical(classifier(), tmp_path / "m")
    sources.write_canonical(branched(), tmp_path / "m")
    assert sources.load(tmp_path / "m").info.name == "branched"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engine import canonical, sources

    sources.write_canonical(classifier(), tmp_path / "m")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(canonical, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        sources.write_canonical(branched(), tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert sources.load(tmp_path / "m").info.name == "classifier"


# === Registration ===


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_models_saved_by_todays_keras_are_registered(make: Callable[[], Any], suffix: str, tmp_path: Path) -> None:
    from worker.engine import sources

    model = moved(make())
    model.save(tmp_path / f"upload.{suffix}")
    (tmp_path / f"upload.{suffix}").rename(tmp_path / "blob")  # uploads have no names
    info = register(tmp_path / "blob", tmp_path / "canonical", rescale="minus_one_to_one")
    x = inputs_for(model)
    loaded = sources.load(tmp_path / "canonical")
    np.testing.assert_array_equal(numpy(loaded.model(x, training=False)), numpy(model(x, training=False)))
    assert info.format == suffix
    assert info.rescale == "minus_one_to_one"
    assert info.upgrades == []
    assert {path.name for path in tmp_path.iterdir()} == {"blob", "canonical"}


def test_labels_must_name_every_output(tmp_path: Path) -> None:
    classifier().save(tmp_path / "m.keras")
    assert register(tmp_path / "m.keras", tmp_path / "c", labels=["a", "b", "c"]).labels == ["a", "b", "c"]
    error = refusal(tmp_path / "m.keras", tmp_path / "d", labels=["a", "b"])
    assert error.message.startswith("The model has 3 outputs, and 2 labels were given.")
    assert error.param == "labels"


def test_a_model_with_two_outputs_is_refused_and_one_with_two_inputs_lists_them(tmp_path: Path) -> None:
    import keras

    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    keras.Model([a, b], keras.layers.Add()([a, b])).save(tmp_path / "in.keras")
    keras.Model(a, [keras.layers.Dense(1)(a), keras.layers.Dense(2)(a)]).save(tmp_path / "out.keras")
    inputs = register(tmp_path / "in.keras", tmp_path / "c").inputs
    assert [(each.name, each.shape, each.dtype) for each in inputs] == [
        ("a", [None, 2], "float32"),
        ("b", [None, 2], "float32"),
    ]
    assert "has 2 outputs" in refusal(tmp_path / "out.keras", tmp_path / "c").message


def test_a_subclassed_model_and_a_custom_layer_are_refused_by_name(tmp_path: Path) -> None:
    import keras

    @keras.saving.register_keras_serializable("mine")
    class Doubling(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    @keras.saving.register_keras_serializable("mine")
    class Net(keras.Model):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def get_config(self) -> dict[str, Any]:
            return {}

    keras.Sequential([keras.Input((2,)), Doubling(name="twice")]).save(tmp_path / "layer.keras")
    net = Net()
    net(np.zeros((1, 2)))
    net.save(tmp_path / "net.keras")
    assert "'Doubling'" in refusal(tmp_path / "layer.keras", tmp_path / "c").message
    assert "'Net'" in refusal(tmp_path / "net.keras", tmp_path / "c").message


def test_weights_that_are_not_numbers_are_refused_with_their_layer(tmp_path: Path) -> None:
    model = classifier()
    model.get_layer("top").bias.assign([0.0, np.nan, 0.0])
    model.save(tmp_path / "m.keras")
    error = refusal(tmp_path / "m.keras", tmp_path / "c")
    assert "'bias' of layer 'top' holds NaN" in error.message


def test_the_limit_of_parameters_is_exact(tmp_path: Path) -> None:
    model = branched()
    model.save(tmp_path / "m.keras")
    assert register(tmp_path / "m.keras", tmp_path / "c", most=model.count_params()).parameters == model.count_params()
    error = refusal(tmp_path / "m.keras", tmp_path / "d", most=model.count_params() - 1)
    assert error.work_code == "model_too_large"


def test_a_layer_shared_between_nested_models_which_keras_cannot_read_again_is_named(tmp_path: Path) -> None:
    import keras

    shared = keras.layers.Dense(4, name="shared")
    one = keras.Sequential([keras.Input((4,)), shared], name="one")
    two = keras.Sequential([keras.Input((4,)), shared], name="two")
    entry = keras.Input((4,))
    keras.Model(entry, two(one(entry))).save(tmp_path / "m.keras")
    assert "Layer 'shared' expected 2 variables" in refusal(tmp_path / "m.keras", tmp_path / "c").message


def test_a_canonical_form_that_computes_something_else_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import canonical

    classifier().save(tmp_path / "m.keras")
    honest = canonical.build

    def wrong(*arguments: Any) -> Any:
        model = honest(*arguments)
        model.get_layer("top").bias.assign([1.0, 2.0, 3.0])
        return model

    monkeypatch.setattr(canonical, "build", wrong)
    with pytest.raises(PlatformError, match="does not compute what the file computes"):
        register(tmp_path / "m.keras", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
