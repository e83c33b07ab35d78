"""Wrong fields: pydantic's errors, said to somebody who looks at the JSON that they sent."""

import json
import re
from collections.abc import Mapping
from typing import Any

from app.api.problems import printable
from app.api.vocabulary import HEAD_LAYERS, OPTIMIZERS, PRESETS, SCHEDULES
from app.domain.errors import FieldProblem
from app.domain.pointers import as_pointer, pointer_into

MAX_ECHO = 80
"""At most so many characters of a wrong value are repeated."""

Detail = Mapping[str, Any]
"""One of pydantic's errors: `type`, `loc`, `msg`, `input`, `ctx`."""


def field_problem(detail: Detail, body: object) -> FieldProblem:
    """One of pydantic's errors, pointing into `body`, or at a parameter outside of it."""
    where, *location = detail["loc"]
    location += (detail.get("ctx") or {}).get("at", [])  # app.domain.spec's own
    missing = detail["type"] == "missing"
    pointer = pointer_into(body, location, missing=missing) if where == "body" else as_pointer(location)
    if detail["type"] == "union_tag_invalid":
        return _unknown_kind(printable(pointer), detail)
    if detail["type"] == "union_tag_not_found":
        return _no_kind(printable(pointer), detail)
    return FieldProblem(
        pointer=printable(pointer), code=detail["type"], message=_message(detail), allowed=_allowed(detail)
    )


def _unknown_kind(pointer: str, detail: Detail) -> FieldProblem:
    """A `type` that there is not: `{"type": "lstm"}` as a layer."""
    allowed = _quoted(detail["ctx"]["expected_tags"])
    received = _echo(detail["ctx"]["tag"])
    message = f"Input should be one of {', '.join(allowed)}; received {received}"
    key = detail["ctx"]["discriminator"].strip("'")
    return FieldProblem(pointer=f"{pointer}/{key}", code="literal_error", message=message, allowed=allowed)


def _no_kind(pointer: str, detail: Detail) -> FieldProblem:
    """Something that has no `type`, or is no object at all; pydantic does not say which types there are."""
    of_field = {"optimizer": OPTIMIZERS, "learning_rate_schedule": SCHEDULES, "schedule": PRESETS}
    allowed = of_field.get(pointer.rpartition("/")[2], HEAD_LAYERS)
    key = "preset" if allowed is PRESETS else "type"
    if isinstance(detail["input"], dict):
        return FieldProblem(pointer=f"{pointer}/{key}", code="missing", message="Field required", allowed=allowed)
    message = f'Input should be an object such as {{"{key}": "{allowed[0]}", …}}; received {_echo(detail["input"])}'
    return FieldProblem(pointer=pointer, code="dict_type", message=message)


def _message(detail: Detail) -> str:
    message = printable(str(detail["msg"]).removeprefix("Value error, "))
    received = detail.get("input")
    if detail["type"] in {"missing", "extra_forbidden"} or isinstance(received, dict | list | bytes):
        return message
    return f"{message}; received {_echo(received)}"


def _echo(received: object) -> str:
    """A wrong value as JSON, in ASCII, so that nothing strange in it does harm, and not all of it if it is long."""
    text = json.dumps(received, default=str)
    return text if len(text) <= MAX_ECHO else text[:MAX_ECHO] + "…"


def _allowed(detail: Detail) -> list[str] | None:
    """What would be accepted, where pydantic knows it as a list."""
    if detail["type"] == "literal_error":
        return _quoted(detail["ctx"]["expected"])
    if detail["type"] == "one_of":  # app.domain.spec's own
        return str(detail["ctx"]["allowed"]).split(", ")
    return None


def _quoted(text: str) -> list[str]:
    """`'a', 'b' or 'c'` as a list."""
    return re.findall(r"'([^']*)'", text)
