"""Regular expressions that people send: compiled only if no name can make them run for long.

Python's matcher tries one way after the other, and `(a+)+b` has exponentially many on a name of a's. The API
process matches such patterns for every plan, so the number of ways is bounded before it does.
"""

import math
import re
from collections.abc import Iterable
from re import _constants, _parser  # type: ignore[attr-defined] # no public way to see a pattern's structure
from typing import Any

from app.domain.errors import UserError

MAX_WAYS = 1_000_000
"""About 10 ms for a name in the worst case."""


def compiled(pattern: str, *, longest: int, param: str) -> re.Pattern[str]:
    """A pattern for names of at most `longest` characters. Raises `UserError` with code `invalid_pattern`."""
    try:
        parsed = _parser.parse(pattern)
        ready = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        message = f"{param} must be a regular expression; received {pattern!r}, which is none: {error}."
        raise UserError(message, code="invalid_pattern", param=param) from error
    anchored = bool(parsed) and parsed[0] == (_constants.AT, _constants.AT_BEGINNING)
    if _ways(parsed, longest) * (1 if anchored else longest) > MAX_WAYS:
        message = (
            f"{param} {pattern!r} repeats so much that it may take very long on a name of {longest} characters. "
            "Begin it with ^, and repeat less."
        )
        raise UserError(message, code="invalid_pattern", param=param)
    return ready


def _ways(items: Iterable[Any], longest: int) -> float:
    """An upper bound for how many ways a sequence can match at one place."""
    total = 1.0
    for kind, value in items:
        total *= _ways_of(kind, value, longest)
    return total


def _ways_of(kind: Any, value: Any, longest: int) -> float:  # noqa: ANN401 (the parser has no types)
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
        least, most, repeated = value
        inner, most = _ways(repeated, longest), min(int(most), longest)
        # So many lengths, and as many ways as the longest of them has, in a number that cannot overflow.
        return (max(most - int(least), 0) + 1) * 10 ** min(most * math.log10(max(inner, 1)), 100)
    return sum(_ways(part, longest) for part in _parts(kind, value)) or 1.0


def _parts(kind: Any, value: Any) -> list[Any]:  # noqa: ANN401
    """The sequences inside an item; one of them matches."""
    match kind:
        case _constants.BRANCH:
            return list(value[1])
        case _constants.SUBPATTERN:
            return [value[-1]]
        case _constants.ATOMIC_GROUP:
            return [value]
        case _constants.ASSERT | _constants.ASSERT_NOT:
            return [value[1]]
        case _constants.GROUPREF_EXISTS:
            return [value[1], value[2] or ()]
        case _:
            return []
