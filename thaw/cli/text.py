"""How values look to people. What the service sends is made harmless for a terminal first."""

import time
from collections.abc import Mapping, Sequence

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plain(value: object) -> str:
    """Text without control characters: names in an uploaded file could move the cursor or change its colours."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


def size(count: float) -> str:
    """Bytes with a decimal unit: `1.5 MB`."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Two units at most: `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(then: float) -> str:
    """How long a Unix time is gone: `5 min ago`."""
    seconds = max(0.0, time.time() - then)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def clock(when: float) -> str:
    """A Unix time in local time: `2026-11-25 16:30`."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def shape(dimensions: Sequence[object] | None) -> str:
    """`(None, 8, 8, 1)` as people write it: `? x 8 x 8 x 1`; several shapes with commas."""
    if dimensions is None:
        return "-"
    if any(isinstance(entry, list) for entry in dimensions):
        return ", ".join(shape(entry) for entry in dimensions if isinstance(entry, list))
    return " x ".join("?" if entry is None else str(entry) for entry in dimensions) or "scalar"


def number(value: float | None) -> str:
    """With thousands separated: `1,234,567`."""
    return "-" if value is None else f"{value:,}"


def measured(value: object) -> str:
    """A metric or a rate, to four digits that mean something: `0.9312`, `0.0001`, `1.2e-07`."""
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)


def metrics(values: Mapping[str, object]) -> str:
    """`loss 0.31  accuracy 0.91  val_loss …`; losses and scores first, housekeeping left out."""
    shown = [(name, value) for name, value in values.items() if name not in {"learning_rate", "seconds", "step"}]
    return "  ".join(f"{plain(name)} {measured(value)}" for name, value in shown)


def choice(value: object) -> str:
    """A one-key choice of the job's language, such as a cut: `drop_last 1`; words stay."""
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(key)} {plain(entry)}" for key, entry in value.items())
    return plain(value)
