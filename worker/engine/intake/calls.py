"""How the layers of a functional config call each other, in the spelling of today's Keras.

A call refers to a tensor as `[layer, use, tensor]`. For Keras 2 the first use of a nested model was number 1, because
the model's own graph counted as number 0 (Sequential ones too, if they knew their input); Keras 3 begins
with 0, except where a Functional's output is named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_json import Json

Config = dict[str, Any]


def upgraded(config: Mapping[str, Json], layers: Sequence[Config]) -> Config:
    """`layers`, `input_layers` and `output_layers` of a Functional config; `layers` are upgraded otherwise."""
    ends = {key: _ends(config.get(key), key) for key in ("input_layers", "output_layers")}
    shifts = _shifts(layers, ends["output_layers"])
    for layer in layers:
        layer["inbound_nodes"] = [_shifted(use, shifts) for use in layer["inbound_nodes"]]
    functional = {layer["name"] for layer in layers if layer["class_name"] == "Functional"}
    outputs = [
        [name, use if name in functional else use - shifts.get(name, 0), tensor]
        for name, use, tensor in ends["output_layers"]
    ]
    return {"layers": list(layers), "input_layers": _alone(ends["input_layers"]), "output_layers": _alone(outputs)}


def _alone(ends: list[list[Json]]) -> list[Json]:
    """One tensor stands for itself; a list of one would make the model return lists."""
    return ends[0] if len(ends) == 1 else ends


def _ends(value: Json, key: str) -> list[list[Json]]:
    """References to the model's inputs or outputs: `["x", 0, 0]`, a list or a dict of such."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list) or not value or not all(_is_end(end) for end in value):
        refuse("corrupt_file", f"The model's {key} are {str(value)[:80]!r}, which names no layers. Save it again.")
    return [[end[0].replace("/", "_"), *end[1:]] for end in value]


def _is_end(end: Json) -> bool:
    return isinstance(end, list) and len(end) == 3 and isinstance(end[0], str) and all(type(i) is int for i in end[1:])


def _shifts(layers: Sequence[Config], outputs: Sequence[Sequence[Json]]) -> dict[str, int]:
    """By nested model: what the numbers of its uses are too high by. The last use is always referred to."""
    references = [reference for layer in layers for use in layer["inbound_nodes"] for reference in _legacy(use)]
    models = [layer for layer in layers if layer["class_name"] in ("Functional", "Sequential")]
    return {
        model["name"]: int(
            max((end[1] for end in (*references, *outputs) if end[0] == model["name"]), default=0)
            >= len(model["inbound_nodes"])
        )
        for model in models
    }


def _legacy(use: Json) -> list[list[Json]]:
    return use if isinstance(use, list) else []


def _shifted(use: Json, shifts: Mapping[str, int]) -> Json:
    if not isinstance(use, list):
        return use
    return [[name, number - shifts.get(name, 0), *rest] for name, number, *rest in use]
