"""Presets of KerasHub, saved and loaded by KerasHub itself: only the download is left out, by filling its cache."""

import importlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import PlatformError, SourceError, UserError
from app.domain.model import ModelOptions, SourceInfo

pytestmark = pytest.mark.tensorflow

IMAGENET = {
    "scale": [1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)],
    "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
}


class Cache:
    """The cache of Kaggle's client, and KerasHub that saves presets into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub: Any = importlib.import_module("keras_hub")

    def add(self, preset: str, backbone: Any, *, version: int | None = None, **converter: Any) -> Path:
        """Put a preset where its files would be after a download."""
        from kagglehub.cache import Cache as KaggleCache
        from kagglehub.handle import parse_model_handle

        handle = self.hub.models.Backbone.presets[preset]["kaggle_handle"].removeprefix("kaggle://")
        if version is not None:
            handle = f"{handle.rpartition('/')[0]}/{version}"
        place = self.folder / "models" / handle
        backbone.save_to_preset(str(place))
        self.hub.layers.ResNetImageConverter(**converter).save_to_preset(str(place))
        for path in place.iterdir():
            KaggleCache().mark_as_complete(parse_model_handle(handle), path.name)
        return place


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cache:
    """An empty cache, and nobody who answers."""
    pytest.importorskip("keras_hub", reason="the extra 'hub' is not installed")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nothing"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    return Cache(tmp_path / "kaggle")


def resnet(cache: Cache, **more: Any) -> Any:
    import keras

    keras.utils.set_random_seed(5)
    return cache.hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        **more,
    )


def vit(cache: Cache) -> Any:
    return cache.hub.models.ViTBackbone((32, 32, 3), (16, 16), 1, 2, 16, 16)


def bert(cache: Cache) -> Any:
    return cache.hub.models.BertBackbone(20, 1, 2, 8, 8, max_sequence_length=8)


def dinov2(cache: Cache) -> Any:
    return cache.hub.models.DINOV2Backbone(16, 1, 16, 2, 16, image_shape=(32, 32, 3), position_embedding_shape=(32, 32))


def register(reference: str, destination: Path, *, max_parameters: int = 10**6, **options: Any) -> SourceInfo:
    from worker.engine import named

    return named.register(
        reference, destination, options=ModelOptions(**options), max_parameters=max_parameters, max_bytes=10**9
    )


def test_a_preset_is_its_backbone_and_its_version_is_noted(cache: Cache, tmp_path: Path) -> None:
    from worker.engine import sources

    backbone = resnet(cache)
    cache.add("resnet_18_imagenet", backbone, **IMAGENET)
    info = register("keras_hub:resnet_18_imagenet", tmp_path / "m")
    assert (info.origin, info.format) == ("keras_hub:resnet_18_imagenet@3", "preset")
    assert (info.rescale, info.input_shape) == ("imagenet_mean_std", [None, None, None, 3])
    source = sources.load(tmp_path / "m")
    assert source.info.class_name == "Functional"
    batch = np.random.default_rng(0).random((2, 40, 48, 3)).astype("float32")
    np.testing.assert_array_equal(source.model(batch, training=False), backbone(batch, training=False))
    assert register(info.origin, tmp_path / "again").digest == info.digest


def test_another_version_of_a_preset_can_be_named(cache: Cache, tmp_path: Path) -> None:
    cache.add("resnet_18_imagenet", resnet(cache), version=2)
    assert register("keras_hub:resnet_18_imagenet@2", tmp_path / "m").origin == "keras_hub:resnet_18_imagenet@2"
    with pytest.raises(PlatformError, match="resnet_18_imagenet/3"):
        register("keras_hub:resnet_18_imagenet", tmp_path / "n")


@pytest.mark.parametrize(
    ("converter", "rescale"),
    [
        ({"scale": 1 / 255}, "zero_to_one"),
        ({"scale": 1 / 127.5, "offset": -1}, "minus_one_to_one"),
        ({"scale": [1 / 127.5] * 3, "offset": [-1.0] * 3}, "minus_one_to_one"),
        ({}, "none"),
        ({"scale": IMAGENET["scale"]}, None),
        ({"scale": 1.0, "offset": [-103.939, -116.779, -123.68]}, None),
        ({"scale": 1 / 128, "offset": -1}, None),
    ],
)
def test_how_a_preset_wants_its_inputs_is_known_only_where_it_is_one_of_the_known_ways(
    converter: dict[str, Any], rescale: str | None, cache: Cache, tmp_path: Path
) -> None:
    cache.add("resnet_18_imagenet", resnet(cache), **converter)
    assert register("keras_hub:resnet_18_imagenet", tmp_path / "m").rescale == rescale


def test_what_is_said_of_the_inputs_serves_where_the_preset_is_silent(cache: Cache, tmp_path: Path) -> None:
    place = cache.add("resnet_18_imagenet", resnet(cache), scale=3.0)
    assert register("keras_hub:resnet_18_imagenet", tmp_path / "m", rescale="zero_to_one").rescale == "zero_to_one"
    converter = json.loads((place / "image_converter.json").read_text())
    converter["config"].update(IMAGENET)
    (place / "image_converter.json").write_text(json.dumps(converter))
    with pytest.raises(UserError, match="wants its inputs as 'imagenet_mean_std'") as caught:
        register("keras_hub:resnet_18_imagenet", tmp_path / "n", rescale="zero_to_one")
    assert (caught.value.work_code, caught.value.param) == ("known_already", "rescale")


@pytest.mark.parametrize(
    ("preset", "build", "says"),
    [
        ("vit_base_patch16_224_imagenet", vit, "cannot take apart: ViTPatchingAndEmbedding"),
        ("bert_tiny_en_uncased", bert, "token ids that KerasHub's tokenizer makes of texts"),
        ("dinov2_small", dinov2, "cannot take apart: DINOV2Embedding"),
        ("resnet_v2_50_imagenet", lambda cache: resnet(cache, use_pre_activation=True), "not on Thaw's list: Pad"),
    ],
)
def test_what_cannot_be_a_source_is_refused_by_name_before_its_weights_are_fetched(
    preset: str, build: Callable[[Cache], Any], says: str, cache: Cache, tmp_path: Path
) -> None:
    place = cache.add(preset, build(cache))
    (place / "model.weights.h5").unlink()
    with pytest.raises(SourceError) as caught:
        register(f"keras_hub:{preset}", tmp_path / "models" / "m")
    assert says in caught.value.message
    assert "EfficientNet" in caught.value.message, "what can be"
    assert caught.value.work_code == "unsupported_preset"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("changed", ["outputs", "weights"])
def test_a_backbone_that_was_not_taken_apart_rightly_is_no_source(
    changed: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from worker.engine import opening

    def wrongly(backbone: Any) -> Any:
        plain = opened(backbone)
        if changed == "outputs":
            return keras.Model(plain.input, plain.output * 2.0)
        copy = keras.models.clone_model(plain)
        copy.set_weights(plain.get_weights())
        return copy

    opened = opening.opened
    monkeypatch.setattr(opening, "opened", wrongly)
    cache.add("resnet_18_imagenet", resnet(cache))
    with pytest.raises(SourceError, match="do not compute what the backbone computes"):
        register("keras_hub:resnet_18_imagenet", tmp_path / "m")


def test_a_preset_above_the_limit_is_refused_before_its_weights_are_fetched(cache: Cache, tmp_path: Path) -> None:
    place = cache.add("resnet_18_imagenet", resnet(cache))
    (place / "model.weights.h5").unlink()
    with pytest.raises(SourceError, match="this service takes 1,000"):
        register("keras_hub:resnet_18_imagenet", tmp_path / "m", max_parameters=1000)


def test_an_unknown_preset_is_told_with_the_nearest(cache: Cache, tmp_path: Path) -> None:
    assert cache.hub
    with pytest.raises(UserError, match="'keras_hub:resnet_18_imagenet'") as caught:
        register("keras_hub:resnet18_imagenet", tmp_path / "m")
    assert caught.value.work_code == "unknown_preset"


@pytest.mark.parametrize("missing", ["everything", "weights", "half of the weights"])
def test_files_that_cannot_be_had_are_the_platforms_fault_and_leave_nothing(
    missing: str, cache: Cache, tmp_path: Path
) -> None:
    if missing != "everything":
        weights = cache.add("resnet_18_imagenet", resnet(cache)) / "model.weights.h5"
        content = weights.read_bytes()
        weights.unlink()
        if missing == "half of the weights":
            weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(PlatformError) as caught:
        register("keras_hub:resnet_18_imagenet", tmp_path / "models" / "m")
    assert (caught.value.work_code, caught.value.retryable) == ("download_failed", True)
    assert str(tmp_path / "kaggle" / "models" / "keras" / "resnetv1") in caught.value.message
    assert not (tmp_path / "models").exists()


def test_without_the_extra_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without(name: str, package: str | None = None) -> Any:
        if name == "keras_hub":
            raise ModuleNotFoundError(name=name)
        return found(name, package)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(PlatformError, match=r"thaw\[hub\]") as caught:
        register("keras_hub:resnet_18_imagenet", tmp_path / "m")
    assert (caught.value.work_code, caught.value.retryable) == ("extra_missing", False)
