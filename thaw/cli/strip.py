"""A model as a strip, one for each phase: what runs once, what is frozen, what trains.

    ··········································┃█▒█▒█▒█▒◆

One cell for each layer that has weights; where there are more than fit, one for several neighbours. The symbols say
everything, so that it reads without colours too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from thaw.records import LayerPlan

CACHED, FROZEN, HELD, TRAINS, HEAD, EDGE = "·", "░", "▒", "█", "◆", "┃"
LEGEND = (
    (CACHED, "frozen, runs once"),
    (FROZEN, "frozen"),
    (HELD, "BatchNormalization held"),
    (TRAINS, "trains"),
    (HEAD, "head"),
)
STYLES = {CACHED: "blue", FROZEN: "cyan", HELD: "yellow", TRAINS: "bold red", HEAD: "bold magenta", EDGE: "bold"}


def symbol(layer: LayerPlan) -> str:
    """What stands for a layer."""
    if layer.part == "head":
        return HEAD
    if layer.state == "trains":
        return TRAINS
    if layer.cached:
        return CACHED
    return HELD if layer.state == "held" else FROZEN


def cells(layers: Sequence[LayerPlan], width: int) -> str:
    """The strip, at most `width` cells wide, the edge of what runs once among them."""
    weighted = [symbol(layer) for layer in layers if layer.state != "weightless"]
    head = sum(mark == HEAD for mark in weighted)
    body, room = weighted[: len(weighted) - head], max(width - head - 1, 8)
    groups = "".join(_together(group) for group in _grouped(body, room))
    once = groups.rfind(CACHED) + 1
    # The edge of a cache of which branches cross is no one place.
    edge = EDGE if once and CACHED * once == groups[:once] else ""
    return groups[:once] + edge + groups[once:] + HEAD * head


def layers_for_a_cell(layers: Sequence[LayerPlan], width: int) -> int:
    """For how many layers one cell stands, at most."""
    weighted = [symbol(layer) for layer in layers if layer.state != "weightless"]
    head = weighted.count(HEAD)
    return max(
        (len(group) for group in _grouped(weighted[: len(weighted) - head], max(width - head - 1, 8))), default=1
    )


def drawn(layers: Sequence[LayerPlan], width: int) -> Text:
    """The strip in colour."""
    return coloured(cells(layers, width))


def coloured(marks: str) -> Text:
    """Each symbol in its colour."""
    from rich.text import Text

    return Text.assemble(*((mark, STYLES.get(mark, "")) for mark in marks))


def _grouped(marks: Sequence[str], room: int) -> Iterator[Sequence[str]]:
    """At most `room` groups of neighbours, as equal in size as can be."""
    count = min(len(marks), room)
    for index in range(count):
        yield marks[index * len(marks) // count : (index + 1) * len(marks) // count]


def _together(group: Sequence[str]) -> str:
    """What trains is never hidden by what does not, and what runs in every epoch not by what runs once."""
    return next(mark for mark in (TRAINS, HELD, FROZEN, CACHED) if mark in group)
