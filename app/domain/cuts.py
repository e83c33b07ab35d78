"""Cuts and selections, decided on the layer table alone, so that the API can check them without Keras.

    rows    0      1 ... k                k+1 ... n-1
            input  | backbone, ends at k  | dropped

Two kinds of cut, two rules:

- `layer` names the end of the backbone, which is then everything that this layer needs. Any row with
  `legal_cut` will do, in a branch too: what the branch does not need falls away.
- `drop_last`, `keep_first` and `fraction` count rows. They may end only where the graph is one tensor wide:
  every row up to there is kept, and all that was above used nothing but that row's output.
"""

import difflib
import math
from collections.abc import Iterable, Sequence

from app.domain import patterns
from app.domain.errors import CutError, UserError
from app.domain.model import LayerRow
from app.domain.phases import Unfreeze, UnfreezeFraction, UnfreezeFrom, UnfreezeLast, UnfreezeMatch
from app.domain.spec import Cut, CutFraction, CutLayer, DropLast, KeepFirst

MAX_SUGGESTIONS = 3


# === Cut ===


def resolve_cut(layers: Sequence[LayerRow], cut: Cut, *, model: str | None = None) -> LayerRow:
    """The last layer that is kept.

    `model` is the source's name, for the message. Raises `CutError`, which names the nearest legal cuts.
    """
    if isinstance(cut, CutLayer):
        return _named_cut(layers, cut.layer, model)
    if isinstance(cut, CutFraction):
        return _nearest_to_fraction(layers, cut.fraction)
    return _counted_cut(layers, cut)


def kept_rows(layers: Sequence[LayerRow], last: LayerRow) -> list[LayerRow]:
    """The backbone's rows: `last` and everything that it needs, in the order and with the indices of the table."""
    needed, waiting = {last.index}, [last.index]
    while waiting:
        for source in inputs_of(layers[waiting.pop()]):
            if source not in needed:
                needed.add(source)
                waiting.append(source)
    return [row for row in layers if row.index in needed]


def inputs_of(row: LayerRow) -> list[int]:
    """Indices of the rows that feed this one."""
    if row.inputs is not None:
        return row.inputs
    return [row.index - 1] if row.index else []


def one_tensor_wide(layers: Sequence[LayerRow]) -> list[bool]:
    """For each row, whether its output is all that passes from the rows up to it to the rows above it."""
    change = [0] * (len(layers) + 1)
    for row in layers:
        for source in inputs_of(row):
            # An edge forbids to end anywhere inside it. It may start at the end itself, but only upwards:
            # a layer that is used again feeds back to a row below.
            start = source + 1 if source < row.index else row.index
            change[start] += 1
            change[max(source, row.index)] -= 1
    crossing, wide = 0, []
    for index in range(len(layers)):
        crossing += change[index]
        wide.append(crossing == 0)
    return wide


def _named_cut(layers: Sequence[LayerRow], name: str, model: str | None) -> LayerRow:
    row = find_layer(layers, name)
    if row is None:
        where = f" in '{model}'" if model else ""
        legal = [candidate.path for candidate in layers if candidate.legal_cut]
        message = f"Unknown cut layer '{name}'{where}. {_nearest_text(nearest_names(name, legal))}"
        raise CutError(message, param="cut.layer")
    if not row.legal_cut:
        around = _around([candidate for candidate in layers if candidate.legal_cut], row.index)
        nearest = _nearest_text([candidate.path for candidate in around])
        message = f"Layer '{name}' is no legal cut: {row.illegal_because or 'it has no single output'}. {nearest}"
        raise CutError(message, param="cut.layer")
    return row


def find_layer(layers: Sequence[LayerRow], name: str) -> LayerRow | None:
    """The row with this path, or the last row of the nested model of this name, or `None`."""
    exact = next((row for row in layers if row.path == name), None)
    if exact is not None:
        return exact
    inside = [row for row in layers if row.path.startswith(f"{name}/")]
    return inside[-1] if inside else None


def _counted_cut(layers: Sequence[LayerRow], cut: DropLast | KeepFirst) -> LayerRow:
    field, count = ("drop_last", cut.drop_last) if isinstance(cut, DropLast) else ("keep_first", cut.keep_first)
    index = len(layers) - 1 - count if field == "drop_last" else count - 1
    legal = _legal_ends(layers)
    for row in legal:
        if row.index == index:
            return row
    nearest = [
        f"{field} {len(layers) - 1 - row.index if field == 'drop_last' else row.index + 1} (up to '{row.path}')"
        for row in _around(legal, index)
    ]
    message = f"{field} {count} is no legal cut: {_why_not(layers, index)}. {_nearest_text(nearest, quote=False)}"
    raise CutError(message, param=f"cut.{field}")


def _why_not(layers: Sequence[LayerRow], index: int) -> str:
    if not 0 <= index < len(layers):
        return f"the source has {len(layers)} layers, its input included"
    row = layers[index]
    if not row.legal_cut:
        return f"it would end at '{row.path}', and {row.illegal_because or 'that has no single output'}"
    return f"it would end at '{row.path}', inside a branch, and the layers above need more than its output"


def _nearest_to_fraction(layers: Sequence[LayerRow], fraction: float) -> LayerRow:
    legal = _legal_ends(layers)
    if not legal:
        message = f"fraction {fraction} is no legal cut: no layer of this source is one. Register another source."
        raise CutError(message, param="cut.fraction")
    wanted = fraction * len(layers)
    return min(legal, key=lambda row: (abs(row.index + 1 - wanted), -row.index))


def _legal_ends(layers: Sequence[LayerRow]) -> list[LayerRow]:
    return [row for row, wide in zip(layers, one_tensor_wide(layers), strict=True) if wide and row.legal_cut]


def _around(legal: Sequence[LayerRow], index: int) -> list[LayerRow]:
    """The nearest legal row below and above."""
    below = [row for row in legal if row.index < index][-1:]
    above = [row for row in legal if row.index > index][:1]
    return below + above


# === Unfreeze ===


def select_unfrozen(layers: Sequence[LayerRow], unfreeze: Unfreeze) -> list[LayerRow]:
    """The rows that train, of the backbone's rows (`kept_rows`, or the backbone's own table).

    Only rows with weights are ever selected. Raises `UserError` with code `unknown_layer`, `invalid_pattern`,
    or `nothing_to_unfreeze` where something was asked for and nothing has weights.
    """
    if unfreeze == "none":
        return []
    weighted = [row for row in layers if row.has_weights]
    selected = _selected(layers, weighted, unfreeze)
    if not selected:
        wish = unfreeze if isinstance(unfreeze, str) else unfreeze.model_dump()
        message = (
            f"unfreeze {wish!r} selects no layer with weights of the backbone, which has {len(weighted)}. "
            f"{_nearest_text([row.path for row in weighted[-MAX_SUGGESTIONS:]], word='Its last')} "
            "Unfreeze some of these, or say 'none'."
        )
        raise UserError(message, code="nothing_to_unfreeze", param="unfreeze")
    return selected


def _selected(layers: Sequence[LayerRow], weighted: Sequence[LayerRow], unfreeze: Unfreeze) -> list[LayerRow]:
    if isinstance(unfreeze, UnfreezeLast):
        return list(weighted[-unfreeze.last :])
    if isinstance(unfreeze, UnfreezeFraction):
        # The epsilon undoes what binary fractions add: 0.7 of 10 layers are 7, not 8.
        count = math.ceil(unfreeze.fraction * len(weighted) - 1e-9)
        return list(weighted[len(weighted) - count :])
    if isinstance(unfreeze, UnfreezeFrom):
        first = _first_row(layers, unfreeze.from_layer)
        return [row for row in weighted if row.index >= first.index]
    if isinstance(unfreeze, UnfreezeMatch):
        longest = max((len(row.path) for row in layers), default=1)
        pattern = patterns.compiled(unfreeze.match, longest=longest, param="unfreeze.match")
        return [row for row in weighted if pattern.search(row.path)]
    return list(weighted)


def _first_row(layers: Sequence[LayerRow], name: str) -> LayerRow:
    for row in layers:
        if row.path == name or row.path.startswith(f"{name}/"):
            return row
    nearest = nearest_names(name, [row.path for row in layers])
    message = f"Unknown layer '{name}' in the backbone. {_nearest_text(nearest)}"
    raise UserError(message, code="unknown_layer", param="unfreeze.from_layer")


# === Suggestions ===


def nearest_names(name: str, candidates: Iterable[str]) -> list[str]:
    """Up to three names that were probably meant: of inner layers with that very name, else the most alike."""
    known = list(candidates)
    inner = [candidate for candidate in known if candidate.rpartition("/")[2] == name]
    return inner[:MAX_SUGGESTIONS] or difflib.get_close_matches(name, known, n=MAX_SUGGESTIONS, cutoff=0.5)


def _nearest_text(names: Sequence[str], *, word: str = "Nearest", quote: bool = True) -> str:
    if not names:
        return "The layer table lists what there is."
    mark = "'" if quote else ""
    return f"{word}: {', '.join(f'{mark}{name}{mark}' for name in names)}."
