"""Where in the JSON that the client sent a validation error points.

Pydantic's `loc` also names the members of unions that it tried: `("head", "layers", 0, "dense", "units")` for
`{"head": {"layers": [{"type": "dense", …}]}}`. Such names are noise to somebody who looks at what they sent.
"""

from collections.abc import Sequence

Location = Sequence[str | int]


def pointer_into(document: object, location: Location, *, missing: bool = False) -> str:
    """The JSON pointer (RFC 6901) that leads as far along `location` as the document goes.

    `missing`: the last element is not in the document, because that is the error.
    """
    location = [part for part in location if part != "[key]"]
    for end in range(len(location), 0, -1):
        path = _fit(document, location[:end], missing=missing and end == len(location))
        if path is not None:
            return as_pointer(path)
    return ""


def as_pointer(path: Location) -> str:
    """`["schedule", 0, "epochs"]` as `/schedule/0/epochs`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _fit(value: object, location: Location, *, missing: bool) -> list[str | int] | None:
    """The elements of `location` that can be walked from `value`, skipping what does not fit, except the last.

    `None` if the last element cannot be reached.
    """
    first, rest = location[0], location[1:]
    if not rest and missing and isinstance(value, dict):
        return [first]
    found, inner = _step(value, first)
    if found and not rest:
        return [first]
    if found and (kept := _fit(inner, rest, missing=missing)) is not None:
        return [first, *kept]
    return _fit(value, rest, missing=missing) if rest else None


def _step(value: object, part: str | int) -> tuple[bool, object]:
    if isinstance(value, dict) and part in value:
        return True, value[part]
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return True, value[part]
    return False, None
