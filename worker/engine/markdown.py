"""Markdown, as much of it as a model card needs; words that came from somebody stay words."""

import json
from collections.abc import Sequence

Row = Sequence[object]


def section(title: str, lines: Sequence[str], *, level: int = 2) -> str:
    """A heading and what stands under it."""
    return "\n".join([f"{'#' * level} {title}", "", *lines])


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A table; its cells are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Somebody's words as words: no markup, no table cells, no line breaks."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in flat)


def code(text: str) -> str:
    """Text between backticks, on one line."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "/") + "`"


def json_code(value: object) -> str:
    """A value as JSON, between backticks."""
    return code(json.dumps(value))
