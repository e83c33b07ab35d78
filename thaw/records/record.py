"""How a JSON object becomes a frozen dataclass, whatever a newer or older service adds or leaves out."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import NamedTuple, TypeVar, get_args, get_origin

from thaw.errors import UnexpectedAnswerError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all answers."""

    raw: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    """The JSON object as the service sent it."""


def read(kind: type[R], answer: object) -> R:
    """Make a record of a JSON object; `UnexpectedAnswerError` if it is none, or if a required member is missing."""
    if not isinstance(answer, Mapping):
        message = f"The service should have answered with a JSON object ({kind.__name__}), not {type(answer).__name__}."
        raise UnexpectedAnswerError(message)
    members = _members(kind)  # type: ignore[arg-type]  # classes are hashable; mypy doubts it for `type[R]`
    values = {member.field.name: _value(kind, member, answer) for member in members}
    return kind(raw=answer, **{name: value for name, value in values.items() if value is not MISSING})


class _Member(NamedTuple):
    """One member of a record, and the type that its annotation stands for."""

    field: "Field[object]"
    hint: object


def _value(kind: type[Record], member: _Member, answer: Mapping[str, object]) -> object:
    wire = member.field.metadata.get("wire", member.field.name)
    if wire in answer and (answer[wire] is not None or _takes_none(member.hint)):
        return _convert(member.hint, answer[wire])
    if member.field.default is MISSING and member.field.default_factory is MISSING:
        message = f"The service's answer has no {wire!r}, which every {kind.__name__} has. Is this a Thaw service?"
        raise UnexpectedAnswerError(message)
    return MISSING


def _convert(hint: object, value: object) -> object:
    """Records inside lists, mappings and optional members; everything else stays as it came."""
    if isinstance(hint, type) and issubclass(hint, Record):
        return read(hint, value)
    arguments = get_args(hint)
    if value is None or not arguments:
        return value
    if get_origin(hint) in {types.UnionType, typing.Union}:
        return _convert(next(argument for argument in arguments if argument is not type(None)), value)
    if isinstance(value, list):
        return [_convert(arguments[0], entry) for entry in value]
    if isinstance(value, dict):
        return {key: _convert(arguments[-1], entry) for key, entry in value.items()}
    return value


def _takes_none(hint: object) -> bool:
    return hint is object or type(None) in get_args(hint)


@cache
def _members(kind: type[Record]) -> list[_Member]:
    """The members of a record class; looked up once, as resolving annotations takes about 0.1 ms."""
    hints = typing.get_type_hints(kind)
    return [_Member(item, hints[item.name]) for item in fields(kind) if item.name != "raw"]
