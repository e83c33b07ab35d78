"""Blocks are taken apart into Keras' own layers, or stay closed."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

PICTURE = (None, None, 3)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def hub() -> Any:
    pytest.importorskip("keras_hub", reason="the extra 'hub' is not installed")
    return importlib.import_module("keras_hub").models


def resnet(hub: Any, block: str) -> Any:
    stem = 3 if "vd" in block else 1
    return hub.ResNetBackbone(
        input_conv_filters=[64] * stem,
        input_conv_kernel_sizes=[3] * stem,
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type=block,
    )


def cspnet(hub: Any, stage: str, block: str) -> Any:
    return hub.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[8, 16],
        block_type=block,
        stage_type=stage,
        bottle_ratio=[0.5],
    )


def efficientnet(hub: Any, first: str) -> Any:
    return hub.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 5, 3],
        stackwise_num_repeats=[2, 2, 2],
        stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 16],
        stackwise_expansion_ratios=[1, 4, 6],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25, 0.25],
        stackwise_strides=[1, 2, 1],
        stackwise_block_types=[first, "fused", "unfused"],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        num_features=16,
    )


def mobilenet(hub: Any) -> Any:
    return hub.MobileNetBackbone(
        stackwise_expansion=[[8, 16], [16, 16]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [16, 16]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=32,
        squeeze_and_excite=0.5,
        image_shape=PICTURE,
    )


OPEN: dict[str, Callable[[Any], Any]] = {
    "ResNet basic": lambda hub: resnet(hub, "basic_block"),
    "ResNet bottleneck": lambda hub: resnet(hub, "bottleneck_block"),
    "ResNet basic vd": lambda hub: resnet(hub, "basic_block_vd"),
    "ResNet bottleneck vd": lambda hub: resnet(hub, "bottleneck_block_vd"),
    "CSPNet dark": lambda hub: cspnet(hub, "dark", "dark_block"),
    "DenseNet": lambda hub: hub.DenseNetBackbone(stackwise_num_repeats=[1, 2], growth_rate=4),
    "EfficientNet": lambda hub: efficientnet(hub, "v1"),
    "EfficientNet cba": lambda hub: efficientnet(hub, "cba"),
    "MobileNet": mobilenet,
    "VGG": lambda hub: hub.VGGBackbone(stackwise_num_repeats=[1, 2], stackwise_num_filters=[8, 16]),
    "Xception": lambda hub: hub.XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 16], [16, 16]], stackwise_pooling=[True, True, False]
    ),
}

CLOSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "DeiT": (
        lambda hub: hub.DeiTBackbone((32, 32, 3), (16, 16), 1, 2, 16, intermediate_dim=16),
        "DeiTEmbeddings",
    ),
    "HGNetV2": (
        lambda hub: hub.HGNetV2Backbone(
            depths=[1],
            embedding_size=8,
            hidden_sizes=[16],
            stem_channels=[3, 8, 8],
            hidden_act="relu",
            use_learnable_affine_block=True,
            stackwise_stage_filters=[(8, 8, 16, 1, 1, 3)],
            apply_downsample=[False],
            use_lightweight_conv_block=[False],
        ),
        "HGNetV2LearnableAffineBlock",
    ),
    "MiT": (
        lambda hub: hub.MiTBackbone([1, 1], 2, [1, 2], [2, 1], 0.1, [7, 3], [4, 2], (64, 64, 3), hidden_dims=[8, 16]),
        "DropPath",
    ),
    "Swin": (
        lambda hub: hub.SwinTransformerBackbone((64, 64, 3), 8, (1, 1), (1, 2), window_size=4),
        "SwinTransformerBlock",
    ),
    "ViT": (
        lambda hub: hub.ViTBackbone((32, 32, 3), (16, 16), 1, 2, 16, 16),
        "ViTPatchingAndEmbedding",
    ),
}


@pytest.mark.parametrize("family", OPEN)
def test_what_a_backbone_is_made_of_computes_what_it_computes_and_is_on_the_list(family: str, hub: Any) -> None:
    from worker.engine import canonical
    from worker.engine.intake.vet_config import check_model
    from worker.engine.opening import opened

    backbone = OPEN[family](hub)
    scatter(backbone)
    plain = opened(backbone)
    config = canonical.config_of(plain)
    check_model(config, strict=True)
    assert {id(weight) for weight in plain.weights} == {id(weight) for weight in backbone.weights}
    batch = np.random.default_rng(0).random((2, 64, 48, 3)).astype("float32")
    np.testing.assert_array_equal(plain(batch, training=False), backbone(batch, training=False))
    rebuilt = canonical.build(config, canonical.weights_of(plain))
    np.testing.assert_array_equal(rebuilt(batch, training=False), backbone(batch, training=False))


@pytest.mark.parametrize("family", ["EfficientNet", "MobileNet"])
def test_it_also_trains_as_the_backbone_does(family: str, hub: Any) -> None:
    """Batch norm counts the batch in both, and no dropout is lost."""
    import keras

    from worker.engine.opening import opened

    backbone = OPEN[family](hub)
    plain = opened(backbone)
    dropouts = [layer for layer in backbone._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    used = [layer for layer in plain.layers if isinstance(layer, keras.layers.Dropout)]
    assert {id(layer) for layer in used} <= {id(layer) for layer in dropouts}
    start = [np.array(weight) for weight in backbone.variables]
    batch = np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32")
    ends = []
    for model in (backbone, plain):
        for variable, value in zip(backbone.variables, start, strict=True):
            variable.assign(value)
        ends.append([np.array(model(batch, training=True)), *(np.array(weight) for weight in backbone.weights)])
    assert any(not np.array_equal(end, value) for end, value in zip(ends[0][1:], start, strict=False))
    for expected, received in zip(*ends, strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("family", CLOSED)
def test_blocks_that_are_more_than_their_parts_are_named(family: str, hub: Any) -> None:
    from worker.engine.opening import ClosedError, opened

    build, name = CLOSED[family]
    with pytest.raises(ClosedError) as caught:
        opened(build(hub))
    assert name in caught.value.classes


def scatter(model: Any) -> None:
    """Fresh batch norms, scales and biases are all alike; these would hide a layer left out."""
    draw = np.random.default_rng(3)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))


def test_a_block_with_a_weight_of_its_own_stays_closed() -> None:
    assert refused(scaling()) == ["Scaling"]


@pytest.mark.parametrize("trained", [lambda x: x + 2.0, lambda x: x * 2.0])
def test_a_block_that_computes_otherwise_while_training_stays_closed(trained: Callable[[Any], Any]) -> None:
    assert refused(moody(trained)) == ["Moody"]


def test_a_block_whose_code_needs_numbers_stays_closed() -> None:
    assert refused(curious()) == ["Curious"]


def test_a_block_that_decides_itself_whether_a_part_trains_stays_closed() -> None:
    """A model tells all of its layers, so the part would train with it once it stands there by itself."""
    assert refused(eager(lambda _: True)) == ["Eager"]
    assert refused(eager(lambda training: not training)) == ["Eager"]
    assert refused(stubborn(training=False)) == ["Stubborn"]
    assert refused(stubborn(training=None)) == ["Stubborn"]


def test_a_block_may_pass_on_whether_it_trains_whatever_is_its_default() -> None:
    import keras

    from worker.engine.opening import opened

    x = keras.Input((100,))
    plain = opened(keras.Model(x, eager(lambda training: training)()(x)))
    ones = np.ones((1, 100), "float32")
    assert (np.array(plain(ones, training=True)) == 0).any()
    np.testing.assert_array_equal(plain(ones, training=False), ones)


def test_blocks_inside_of_blocks_are_opened_and_parts_get_the_names_of_theirs() -> None:
    import keras

    from worker.engine.opening import opened

    block = nested()
    x = keras.Input((4,), name="x")
    plain = opened(keras.Model(x, block(name="b")(block(name="a")(x)), name="m"))
    assert [type(layer).__name__ for layer in plain.layers] == ["InputLayer", "Dense", "Dense"]
    assert [layer.name for layer in plain.layers] == ["x", "a_inner_dense", "b_inner_dense"]


def refused(block: Any) -> list[str]:
    import keras

    from worker.engine.opening import ClosedError, opened

    x = keras.Input((4,))
    with pytest.raises(ClosedError) as caught:
        opened(keras.Model(x, block()(x)))
    return caught.value.classes


def scaling() -> Any:
    import keras

    class Scaling(keras.layers.Layer):
        def build(self, _: Any) -> None:
            self.factor = self.add_weight(shape=(), initializer="ones")

        def call(self, inputs: Any) -> Any:
            return inputs * self.factor

    return Scaling


def moody(trained: Callable[[Any], Any]) -> Any:
    import keras

    class Moody(keras.layers.Layer):
        def call(self, inputs: Any, training: bool | None = None) -> Any:
            return trained(inputs) if training else inputs + 1.0

    return Moody


def eager(told: Callable[[Any], Any]) -> Any:
    import keras

    class Eager(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, inputs: Any, training: bool = True) -> Any:
            return self.dropout(inputs, training=told(training))

    return Eager


def stubborn(*, training: bool | None) -> Any:
    import keras

    class Stubborn(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, inputs: Any) -> Any:
            return self.dropout(inputs, training=training)

    return Stubborn


def curious() -> Any:
    import keras

    class Curious(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2.0 if float(keras.ops.sum(inputs)) > 0 else inputs + 1.0

        def compute_output_spec(self, inputs: Any) -> Any:
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    return Curious


def nested() -> Any:
    import keras

    class Inner(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(4, name="dense")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    class Outer(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.inner = Inner(name="inner")

        def call(self, inputs: Any) -> Any:
            return self.inner(inputs)

    return Outer
