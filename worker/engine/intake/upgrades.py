"""Bring a model's configuration into the spelling of today's Keras, without changing what it computes.

Files of Keras 2.0 to 2.15 name no modules, say `batch_input_shape`, and pass arguments that Keras 3 refuses. Each
change is told in a sentence, with the number of layers it concerned. Where two versions of Keras mean
different things, the file is refused instead.

Everything is rebuilt from known keys, so nothing unknown travels along. The config must have passed
`vet_config.check_model`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from worker.engine.intake import allowlist, calls
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_config import ACTIVATIONS_BEFORE, CLASS_NAMES_BEFORE, SPECIAL, class_name, with_module
from worker.engine.intake.vet_json import Json

Config = dict[str, Any]


def upgrade(config: Mapping[str, Json], *, keras_version: str | None = None) -> tuple[Config, list[str]]:
    """The model's config as Keras 3 would write it, and what had to be changed.

    `keras_version`: what wrote it, as the file says; `None`: the file does not say.
    """
    upgrader = _Upgrader(before_keras_3=_is_before_3(keras_version, config))
    upgraded = upgrader.model(config, name="model")
    return upgraded, upgrader.sentences()


class _Upgrader:
    def __init__(self, *, before_keras_3: bool) -> None:
        self._changes: Counter[str] = Counter()
        self._before_keras_3 = before_keras_3

    def sentences(self) -> list[str]:
        """What was changed, most frequent first."""
        return [
            f"{change} ({count} layers)." if count > 1 else f"{change}."
            for change, count in self._changes.most_common()
        ]

    # === Models ===

    def model(self, node: Mapping[str, Json], *, name: str) -> Config:
        """A Sequential or Functional model."""
        kind = CLASS_NAMES_BEFORE.get(class_name(node), class_name(node))
        config = node["config"]
        if isinstance(config, list):
            self._changes["The list of layers was put where Keras 3 expects it"] += 1
            config = {"name": name, "layers": config}
        layers = [self._layer(layer) for layer in config["layers"]]
        inner: Config = {"name": _plain_name(config.get("name") or name), "trainable": config.get("trainable", True)}
        if kind == "Sequential":
            inner["layers"] = self._with_input(layers, node)
        else:
            inner |= calls.upgraded(config, layers)
        return {"module": allowlist.MODEL_MODULES[kind], "class_name": kind, "config": inner, "registered_name": None}

    def _with_input(self, layers: list[Config], node: Mapping[str, Json]) -> list[Config]:
        """Sequential models know their input by an input layer, by a nested model's, or by a note beside a layer."""
        if layers[0]["class_name"] == "InputLayer":
            return layers
        inner = _innermost_input(layers[0])
        shape = inner["batch_shape"] if inner else _noted_shape(node)
        if not isinstance(shape, list) or not shape:
            refuse(
                "unsupported_model",
                f"The Sequential model that begins with '{layers[0]['name']}' was never built: its input shape is "
                "unknown. Call it once on data, or begin it with keras.Input(shape=…), and save it again.",
            )
        names = {layer["name"] for layer in layers}
        name = next(name for name in ("input", "model_input", "input_of_model") if name not in names)
        config = {"batch_shape": [None, *shape[1:]], "dtype": (inner or {}).get("dtype", "float32"), "name": name}
        return [{**_object("layer", "InputLayer", config), "name": name, "inbound_nodes": []}, *layers]

    # === Layers ===

    def _layer(self, node: Mapping[str, Json]) -> Config:
        given = _name(node)
        name = _plain_name(given)
        if name != given:
            self._changes["'/' in names was replaced by '_', for it stands between a nested model and its layers"] += 1
        layer = self._one(node, name)
        layer["name"] = name
        layer["inbound_nodes"] = [self._use(use) for use in node.get("inbound_nodes", [])]
        return layer

    def _one(self, node: Mapping[str, Json], name: str) -> Config:
        if class_name(node) in (*allowlist.MODELS, "Model"):
            return self.model(node, name=name)
        node = with_module(node)
        config = {**node["config"]}
        if "name" in config or allowlist.kind_of(node.get("module"), "layer") == "layer":
            config["name"] = name
        return self._object({**node, "config": config}, "layer")

    def _use(self, use: Json) -> Json:
        """One call; tensors name the layers that they come from."""
        if isinstance(use, list):
            return [[_plain_name(reference[0]), *reference[1:]] for reference in use]
        return {"args": self._value(use.get("args", []), ""), "kwargs": self._value(use.get("kwargs", {}), "")}

    def _object(self, node: Mapping[str, Json], key: str) -> Json:
        """An object that Keras builds from a class and its config."""
        name = class_name(node)
        if name in SPECIAL:
            return {"class_name": name, "config": self._special(name, node["config"])}
        if name == "function":
            return self._activation(node["config"])
        kind = allowlist.kind_of(node.get("module"), key) or "layer"
        if kind == "policy":
            return node["config"]["name"]
        name = CLASS_NAMES_BEFORE.get(name, name)
        config = {inner: self._value(value, inner) for inner, value in node["config"].items()}
        for owner, rule in RULES:
            if re.fullmatch(owner, name) and kind in ("layer", "initializer"):
                self._changes.update(sentence.replace("{name}", name) for sentence in rule(config))
        return _object(kind, name, config, module=node.get("module"))

    def _special(self, name: str, config: Mapping[str, Json]) -> Config:
        values = {key: self._value(value, key) for key, value in config.items()}
        if name == "__keras_tensor__" and values.get("keras_history"):
            layer, *numbers = values["keras_history"]
            values["keras_history"] = [_plain_name(layer), *numbers]
        return values

    def _value(self, value: Json, key: str) -> Json:
        if isinstance(value, Mapping):
            if class_name(value) in (*allowlist.MODELS, "Model"):
                return self.model(value, name="model")
            if "class_name" in value:
                return self._object(value, key)
            return {inner: self._value(item, inner) for inner, item in value.items()}
        if isinstance(value, str) and key.endswith("activation"):
            return self._activation(value)
        return [self._value(item, key) for item in value] if isinstance(value, list) else value

    def _activation(self, name: Json) -> Json:
        if name == "hard_sigmoid" and self._before_keras_3:
            refuse(
                "unsupported_model",
                "The model uses the activation 'hard_sigmoid', which meant clip(0.2 x + 0.5, 0, 1) before Keras 3 and "
                "means clip(x / 6 + 0.5, 0, 1) since: it would compute something else. Old GRU and LSTM layers have it "
                "by default. Train the model anew with recurrent_activation='sigmoid', or another activation.",
            )
        today = ACTIVATIONS_BEFORE.get(str(name))
        if today is None:
            return name
        self._changes[f"The activation `{name}` became `{today}`"] += 1
        return today


# === Rules: each changes a config in place and says what it did ===

Rule = Callable[[Config], list[str]]


def _input_shape(config: Config) -> list[str]:
    sentences = []
    if "batch_input_shape" in config:
        config["batch_shape"] = config.pop("batch_input_shape")
        sentences.append("`batch_input_shape` became `batch_shape`")
    config.pop("ragged", None)  # refused by the check unless it is false
    shape = config.get("batch_shape")
    if isinstance(shape, list) and shape and shape[0] is not None:
        config["batch_shape"] = [None, *shape[1:]]
        sentences.append(f"The fixed batch size {shape[0]} was made free")
    return sentences


def _drop(*keys: str, meaning_nothing: tuple[Json, ...] = ()) -> Rule:
    """Drop arguments; only where they have values that change nothing, if such are given."""

    def rule(config: Config) -> list[str]:
        sentences = []
        for key in keys:
            if key not in config:
                continue
            value = config.pop(key)
            if meaning_nothing and value not in meaning_nothing:
                refuse("unsupported_model", f"'{config.get('name')}' has {key}={str(value)[:80]}, which Keras 3 lacks.")
            sentences.append(f"`{key}` was dropped from {{name}}, where it changes nothing")
        return sentences

    return rule


def _rename(old: str, new: str) -> Rule:
    def rule(config: Config) -> list[str]:
        if old not in config:
            return []
        config[new] = config.pop(old)
        return [f"`{old}` of {{name}} became `{new}`"]

    return rule


def _single_axis(config: Config) -> list[str]:
    axis = config.get("axis")
    if not isinstance(axis, list):
        return []
    if len(axis) != 1:
        refuse("unsupported_model", f"'{config.get('name')}' normalizes over the axes {axis}; Keras 3 takes one.")
    config["axis"] = axis[0]
    return ["`axis` of {name} became a number"]


def _truncated(config: Config) -> list[str]:
    # Keras 2 drew from the truncated distribution under the old name, too.
    if config.get("distribution") != "normal":
        return []
    config["distribution"] = "truncated_normal"
    return ["`distribution: normal` of {name} became `truncated_normal`"]


def _stateless(config: Config) -> list[str]:
    if config.get("stateful"):
        refuse(
            "unsupported_model",
            f"'{config.get('name')}' is stateful: it remembers from batch to batch, which no shuffled training allows. "
            "Build it with stateful=False and save it again.",
        )
    return []


def _without_reset(config: Config) -> list[str]:
    # Keras before 2.2 knew only this kind, and wrote nothing about it; today's default is the other.
    if "reset_after" in config:
        return []
    config["reset_after"] = False
    return ["`reset_after` of {name} became false, as it was before there was a choice"]


_SILENT = ("batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length", "input_spec")
"""What Keras 2 noted beside the first layer; the input layer says it."""


def _drop_input_notes(config: Config) -> list[str]:
    for key in _SILENT:
        config.pop(key, None)
    return []


_RECURRENT = r"(ConvLSTM[123]D|GRU|LSTM|RNN|SimpleRNN)"
_INITIALIZERS = "|".join(sorted(allowlist.INITIALIZERS))

RULES: tuple[tuple[str, Rule], ...] = (
    (r"InputLayer", _input_shape),
    (r"(?!InputLayer|Embedding).*", _drop_input_notes),
    (r"Embedding", _drop("batch_input_shape", "input_length")),
    (r"DepthwiseConv[12]D|SeparableConv[12]D|Conv[123]DTranspose", _drop("groups", meaning_nothing=(1,))),
    (
        r"DepthwiseConv[12]D|SeparableConv[12]D",
        _drop("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    ),
    (r"BatchNormalization", _single_axis),
    (r"BatchNormalization", _drop("fused", "virtual_batch_size", "adjustment", meaning_nothing=(None, True, False))),
    (r"LeakyReLU", _rename("alpha", "negative_slope")),
    (r"ReLU", _rename("theta", "threshold")),
    (r"GRU|GRUCell", _without_reset),
    (r"Attention|AdditiveAttention", _drop("causal", meaning_nothing=(False,))),
    (_RECURRENT, _drop("time_major", meaning_nothing=(False, None))),
    (_RECURRENT, _stateless),
    (r"MultiHeadAttention", _drop("query_shape", "key_shape", "value_shape")),
    (_INITIALIZERS, _drop("dtype")),
    (r"VarianceScaling", _truncated),
)
"""Which classes (a pattern for the whole name), and what is done to their configs, in order."""


def _is_before_3(keras_version: str | None, config: Mapping[str, Json]) -> bool:
    """Files that say no version are old if they name no modules."""
    if keras_version is None:
        return config.get("module") is None
    return keras_version.partition(".")[0] in ("0", "1", "2")


def _object(kind: allowlist.Kind, name: str, config: Config, module: str | None = None) -> Config:
    return {
        "module": allowlist.module_of(kind, name, module),
        "class_name": name,
        "config": config,
        "registered_name": None,
    }


def _innermost_input(layer: Config) -> Config | None:
    """The config of a nested model's own input layer, if it has one input."""
    while layer["class_name"] == "Sequential":
        layer = layer["config"]["layers"][0]
    if layer["class_name"] == "Functional":
        entry = layer["config"]["input_layers"][0]
        layer = next((inner for inner in layer["config"]["layers"] if inner["name"] == entry), layer)
    return layer["config"] if layer["class_name"] == "InputLayer" and "batch_shape" in layer["config"] else None


def _noted_shape(node: Mapping[str, Json]) -> Json:
    """Where Sequential models without an input layer have their input's shape."""
    config, build = node["config"], node.get("build_config")
    layers = config if isinstance(config, list) else config["layers"]
    first = layers[0]["config"]
    beside = [] if isinstance(config, list) else [config.get("build_input_shape"), config.get("batch_input_shape")]
    built = [build.get("input_shape")] if isinstance(build, Mapping) else []
    notes = (first.get("batch_input_shape"), first.get("batch_shape"), *beside, *built)
    return next((shape for shape in notes if shape), None)


def _name(node: Mapping[str, Json]) -> str:
    config = node["config"]
    inner = config.get("name") if isinstance(config, Mapping) else None
    return str(node.get("name") or inner or class_name(node).lower())


def _plain_name(name: Json) -> str:
    return str(name).replace("/", "_")
