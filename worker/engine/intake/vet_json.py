"""JSON that one program reads as every other does, and that no small text blows up."""

import json
import math
from typing import Any

from worker.engine.intake.refusals import refuse

MAX_BYTES = 8 * 1024**2
"""EfficientNetB7's config has 1 MB."""
MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_TEXT = 4096
MAX_INTEGER = 2**53
"""Beyond it, not every integer is a double."""

Json = Any


def parse_json(text: bytes, *, name: str) -> Json:
    """The value of JSON text. Refuses what is too large or too deep, repeated keys, NaN and infinity."""
    if len(text) > MAX_BYTES:
        refuse("unsafe_file", f"{name} has {len(text)} bytes; a model's configuration has at most {MAX_BYTES}.")
    try:
        value = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except RecursionError:
        refuse("unsafe_file", f"{name} is nested too deeply; at most {MAX_DEPTH} levels are read.")
    except ValueError as error:
        refuse("corrupt_file", f"{name} is not JSON: {error}. Save the model again.")
    _check_size(value, name)
    return value


def _once_each(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        refuse("unsafe_file", "The configuration has a key twice in one object; programs disagree on which one counts.")
    return found


def _no_constant(constant: str) -> Json:
    refuse("unsafe_file", f"The configuration holds {constant}, which is no JSON number.")


def _check_size(value: Json, name: str) -> None:
    waiting, nodes = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            refuse("unsafe_file", f"{name} has more than {MAX_DEPTH} levels or {MAX_NODES} values.")
        if isinstance(item, dict):
            waiting.extend((inner, depth + 1) for inner in item.values())
            waiting.extend((key, depth + 1) for key in item)
        elif isinstance(item, list):
            waiting.extend((inner, depth + 1) for inner in item)
        else:
            _check_scalar(item, name)


def _check_scalar(value: Json, name: str) -> None:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        refuse("unsafe_file", f"{name} holds a text of {len(value)} characters; at most {MAX_TEXT} are read.")
    if isinstance(value, float) and not math.isfinite(value):
        refuse("unsafe_file", f"{name} holds a number too large to be one.")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        refuse("unsafe_file", f"{name} holds the integer {str(value)[:20]}…, beyond any size of a layer.")
