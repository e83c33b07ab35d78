"""Checks on what a model's configuration names and how it is built. Without Keras.

Two rounds, before and after `upgrades`: the first finds out whether the file may be opened and is built as
upgrading expects, the second (`strict`) whether exactly what Keras will be given is on the allow-list.
"""

import math
from collections.abc import Iterator, Mapping

from worker.engine.intake import allowlist, vocabularies
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_json import Json

MAX_NAME = 200
MAX_INPUT_NUMBERS = 2**26
"""Numbers in one example: 256 MiB in float32."""


def check_model(config: Json, *, strict: bool) -> None:
    """Refuse a model's configuration that names anything off the allow-list. `strict`: in canonical spelling."""
    _Check(strict=strict).model(config, "the model")


class _Check:
    def __init__(self, *, strict: bool) -> None:
        self.strict = strict

    def model(self, node: Json, where: str) -> None:
        """A Sequential or Functional model: its layers, and how they are called."""
        node = _mapping(node, where)
        self._named_class(node, "model", where)
        config = node.get("config")
        # Sequential models of Keras before 2.2.3 have the list of layers itself.
        layers = config if isinstance(config, list) and not self.strict else _mapping(config, where).get("layers")
        if not isinstance(layers, list) or not layers:
            refuse("corrupt_file", f"{where} has no list of layers. Save the model again.")
        for position, layer in enumerate(layers):
            self.layer(layer, f"layer {position} of {where}")

    def layer(self, node: Json, where: str) -> None:
        """A layer or operation of a model's graph, or a nested model."""
        node = _mapping(node, where)
        where = f"layer '{_name_of(node, where)}'"
        if class_name(node) in (*allowlist.MODELS, "Model"):
            self.model(node, where)
        else:
            self._object(with_module(node), "layer", where)
            _check_input(node, where)
        for use in _list(node.get("inbound_nodes", []), where):
            self._check_use(use, where)

    def _check_use(self, use: Json, where: str) -> None:
        """One call of a layer. Without a tensor among its arguments Keras would run it while loading."""
        if isinstance(use, Mapping):
            self._value(use, "", where)
        if not use or (isinstance(use, Mapping) and "__keras_tensor__" not in _class_names(use)):
            refuse("unsafe_file", f"{where} is called without any tensor: it would run while it is loaded.")
        plain = isinstance(use, list) and all(_is_reference(reference) for reference in use)
        if not plain and not (isinstance(use, Mapping) and isinstance(use.get("args"), list)):
            refuse("unsupported_model", f"{where} is called in a way that Thaw does not understand: {_short(use)}.")

    def _object(self, node: Mapping[str, Json], key: str, where: str) -> None:
        name = class_name(node)
        if name.startswith("__"):
            self._special(name, node, where)
        elif name == "function":
            self._function(node, where)
        else:
            kind = allowlist.kind_of(_text(node, "module", where), key)
            self._named_class(node, kind, where)
            if vocabularies.is_lookup(name):
                vocabularies.check(name, _mapping(node.get("config"), where), where, complete=self.strict)
            config = _mapping(node.get("config"), where)
            takes_texts = name == "InputLayer" and config.get("dtype") == allowlist.TEXT
            self._values({**config, "dtype": None} if takes_texts else config, where)

    def _named_class(self, node: Mapping[str, Json], kind: allowlist.Kind | None, where: str) -> None:
        name, module = class_name(node), _text(node, "module", where)
        spelled = name if self.strict else CLASS_NAMES_BEFORE.get(name, name)
        expected = kind and allowlist.module_of(kind, spelled, module)
        if expected is None or name in allowlist.REFUSED or not allowlist.is_kerass(module):
            _refuse_class(name, module, where)
        registered = node.get("registered_name")
        if registered not in (None, "", name):
            refuse("class_not_allowed", f"{where} has the custom class '{_short(registered)}'. {ONLY_BUILT_IN}")
        if self.strict and module != expected:
            refuse("class_not_allowed", f"{where} says that '{name}' is in '{module}'; it is in '{expected}'.")

    def _function(self, node: Mapping[str, Json], where: str) -> None:
        name = node.get("config")
        if self.strict or not isinstance(name, str) or name not in allowlist.ACTIVATIONS:
            refuse(
                "class_not_allowed", f"{where} names the function '{_short(name)}', which is no activation of Keras."
            )

    def _special(self, name: str, node: Mapping[str, Json], where: str) -> None:
        if name not in SPECIAL:
            _refuse_class(name, None, where)
        config = _mapping(node.get("config"), where)
        may_be_text = name == "__keras_tensor__" and config.get("dtype") == allowlist.TEXT
        if "dtype" in config and not may_be_text and _text(config, "dtype", where) not in allowlist.DTYPES:
            refuse("unsupported_model", f"{where} uses numbers of type '{_short(config['dtype'])}'.")
        if name == "__keras_tensor__" and not _is_reference(config.get("keras_history")):
            refuse("corrupt_file", f"{where} takes a tensor of no layer: {_short(config.get('keras_history'))}.")
        self._values({key: value for key, value in config.items() if key != "dtype"}, where)

    def _values(self, config: Mapping[str, Json], where: str) -> None:
        for key, value in config.items():
            self._value(value, key, where)

    def _value(self, value: Json, key: str, where: str) -> None:
        if isinstance(value, Mapping):
            if "class_name" in value:
                self._nested(value, key, where)
            else:
                self._values(value, where)
        elif isinstance(value, list):
            for item in value:
                self._value(item, key, where)
        elif isinstance(value, str):
            spelled = value if self.strict else ACTIVATIONS_BEFORE.get(value, value)
            _check_text(spelled, key, where)

    def _nested(self, node: Mapping[str, Json], key: str, where: str) -> None:
        if class_name(node) in (*allowlist.MODELS, "Model"):
            self.model(node, where)  # inside TimeDistributed
        else:
            self._object(node, key, where)


CLASS_NAMES_BEFORE = {
    "Model": "Functional",
    "Policy": "DTypePolicy",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
}
"""Names of earlier versions of Keras, and today's."""
ACTIVATIONS_BEFORE = {"softmax_v2": "softmax"}
"""TensorFlow's own functions, which Keras 2 wrote down by the names that these have inside."""
SPECIAL = frozenset({"__keras_tensor__", "__numpy__", "__tensor__", "__slice__", "__ellipsis__"})
"""Plain values that JSON has no form for; Keras writes them with a class name."""
ONLY_BUILT_IN = "Thaw opens models of Keras' own layers only; rebuild the model with these and save it again."


def class_name(node: Mapping[str, Json]) -> str:
    """The class that an object names, or '' where that is no text."""
    name = node.get("class_name")
    return name if isinstance(name, str) else ""


def with_module(node: Mapping[str, Json]) -> Mapping[str, Json]:
    """A member of a graph with the module of its operation, where it is one that an HDF5 file names without it."""
    guessed = allowlist.module_in_hdf5(class_name(node), node.get("config")) if node.get("module") is None else None
    return {**node, "module": guessed} if guessed else node


def _refuse_class(name: str, module: str | None, where: str) -> None:
    where_from = f" of module '{_short(module)}'" if module else ""
    reason = allowlist.REFUSED.get(name)
    because = f"is not opened, because {reason}." if reason else f"is not on the list. {ONLY_BUILT_IN}"
    refuse("class_not_allowed", f"{where}: class '{_short(name)}'{where_from} {because}")


def _check_text(value: str, key: str, where: str) -> None:
    """Names of functions and classes in fields that Keras looks up by name."""
    if key.endswith("activation") and value not in allowlist.ACTIVATIONS:
        refuse("class_not_allowed", f"{where} names the activation '{_short(value)}', which is not one of Keras' own.")
    for kind in ("initializer", "regularizer", "constraint"):
        if key.endswith(kind) and not allowlist.is_nickname(kind, value):
            refuse("class_not_allowed", f"{where} names the {kind} '{_short(value)}', which is not one of Keras' own.")
    if key == "dtype" and value not in allowlist.POLICIES | allowlist.DTYPES:
        refuse(
            "unsupported_model", f"{where} has dtype '{_short(value)}'; expected one of {sorted(allowlist.POLICIES)}."
        )
    if key == "data_format" and value == "channels_first":
        refuse(
            "unsupported_model",
            f"{where} has data_format channels_first, which does not run on CPUs. Convert the model to channels_last.",
        )


def _check_input(node: Mapping[str, Json], where: str) -> None:
    if class_name(node) != "InputLayer":
        return
    config = node["config"]
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if not isinstance(shape, list) or not all(side is None or type(side) is int for side in shape):
        refuse(
            "unsupported_model", f"{where} has shape {_short(shape)}; expected a list of numbers, such as [null, 8]."
        )
    numbers = math.prod(side for side in shape[1:] if side is not None)
    if numbers > MAX_INPUT_NUMBERS:
        refuse("model_too_large", f"{where} takes {numbers} numbers for each example; at most {MAX_INPUT_NUMBERS}.")
    if config.get("sparse") or config.get("ragged"):
        refuse("unsupported_model", f"{where} takes sparse or ragged tensors. Thaw trains on dense ones only.")


def _is_reference(reference: Json) -> bool:
    """Whether it is Keras 2's `[layer, node, tensor, {arguments}]`, with arguments that are plain."""
    if not isinstance(reference, list) or len(reference) not in (3, 4) or not isinstance(reference[0], str):
        return False
    arguments = reference[3] if len(reference) > 3 else {}
    plain = isinstance(arguments, dict) and not any(isinstance(value, dict | list) for value in arguments.values())
    return plain and all(isinstance(number, int) for number in reference[1:3])


def _class_names(value: Json) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield class_name(value)
        for item in value.values():
            yield from _class_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _class_names(item)


def _name_of(node: Mapping[str, Json], where: str) -> str:
    config = node.get("config")
    name = node.get("name") or (config.get("name") if isinstance(config, Mapping) else None) or class_name(node)
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable() or name in (".", ".."):
        refuse("unsafe_file", f"{where} has the name {_short(name)!r}; expected printable text of at most {MAX_NAME}.")
    return name


def _mapping(value: Json, where: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        refuse("corrupt_file", f"{where} should be a JSON object, received {_short(value)!r}. Save the model again.")
    return value


def _list(value: Json, where: str) -> list[Json]:
    if not isinstance(value, list):
        refuse(
            "corrupt_file", f"{where} should have a list of calls, received {_short(value)!r}. Save the model again."
        )
    return value


def _text(node: Mapping[str, Json], key: str, where: str) -> str | None:
    value = node.get(key)
    if value is not None and not isinstance(value, str):
        refuse("corrupt_file", f"{where} has {key} {_short(value)!r}, which should be text. Save the model again.")
    return value


def _short(value: Json) -> str:
    return str(value)[:80]
