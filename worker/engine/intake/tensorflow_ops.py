"""Arithmetic that Keras 2 wrote down as calls of TensorFlow, as operations of Keras.

`preprocess_input(inputs)` or `x / 127.5 - 1` inside a functional model made layers of the class TFOpLambda, which name
a TensorFlow function. Keras 3 does not open them. Those that only compute with one tensor and a number, or with one
tensor alone, are the same operation in Keras; all others are left as they are, and refused by the check.
"""

from collections.abc import Mapping
from typing import Any

from worker.engine.intake.vet_json import Json

TF_LAYER = "TFOpLambda"

_NUMPY, _NN = "keras.src.ops.numpy", "keras.src.ops.nn"
WITH_NUMBER: Mapping[str, str] = {
    "math.add": "Add",
    "__operators__.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
}
"""TensorFlow's function, and the class in `keras.src.ops.numpy` that does the same with `x1` and `x2`."""
ALONE: Mapping[str, tuple[str, str]] = {
    "nn.relu": (_NN, "Relu"),
    "nn.relu6": (_NN, "Relu6"),
    "nn.silu": (_NN, "Silu"),
    "math.sigmoid": (_NN, "Sigmoid"),
    "math.tanh": (_NUMPY, "Tanh"),
    "math.sqrt": (_NUMPY, "Sqrt"),
    "math.square": (_NUMPY, "Square"),
    "math.abs": (_NUMPY, "Absolute"),
}


def translated(config: Json) -> tuple[Json, int]:
    """A model's config with those layers as operations, and how many there were. The config is not vetted yet."""
    if not isinstance(config, Mapping) or not isinstance(config.get("config"), Mapping):
        return config, 0
    layers = config["config"].get("layers")
    if not isinstance(layers, list):
        return config, 0
    found = [_layer(layer) for layer in layers]
    inner = {**config["config"], "layers": [layer for layer, _ in found]}
    return {**config, "config": inner}, sum(count for _, count in found)


def sentence(count: int) -> str:
    """What was changed."""
    return "Calls of TensorFlow's functions became operations of Keras" + (f" ({count} layers)." if count > 1 else ".")


def _layer(node: Json) -> tuple[Json, int]:
    if not isinstance(node, Mapping):
        return node, 0
    if node.get("class_name") != TF_LAYER:
        return translated(node)  # a nested model, or nothing to be done
    operation = _operation(node)
    return (node, 0) if operation is None else (operation, 1)


def _operation(node: Mapping[str, Json]) -> dict[str, Any] | None:
    config, uses = node.get("config"), node.get("inbound_nodes")
    if not isinstance(config, Mapping) or not isinstance(uses, list) or not isinstance(config.get("function"), str):
        return None
    function = config["function"]
    calls = [_call(use, number=function in WITH_NUMBER) for use in uses]
    if not calls or any(call is None for call in calls):
        return None
    if function in WITH_NUMBER:
        module, name = _NUMPY, WITH_NUMBER[function]
    elif function in ALONE:
        module, name = ALONE[function]
    else:
        return None
    return {
        "module": module,
        "class_name": name,
        "config": {"name": config.get("name")},
        "registered_name": None,
        "name": node.get("name"),
        "inbound_nodes": calls,
    }


def _call(use: Json, *, number: bool) -> list[Json] | None:
    """`["x", 0, 0, {"y": 2.0, "name": null}]` as Keras' operation takes it, if it is of that form and no other."""
    reference = use[0] if isinstance(use, list) and len(use) == 1 and isinstance(use[0], list) else use
    if not isinstance(reference, list) or len(reference) != 4 or not isinstance(reference[3], Mapping):
        return None
    given = {key: value for key, value in reference[3].items() if key != "name"}
    if not number:
        return [[*reference[:3], {}]] if not given else None
    if set(given) != {"y"} or type(given["y"]) not in (int, float):
        return None
    return [[*reference[:3], {"x2": given["y"]}]]
