"""`head: keep`: the source's own output layer as the head, decided on the layer table alone.

    rows    0      1 ... i-1      i ... n-1
            input  | backbone     | kept head: from the last layer with weights on

The kept head is the layer that has the last weights, and what follows it without any, such as a softmax of its own. It
must be a plain chain on one tensor, so that what lies below is a backbone like any other.
"""

from collections.abc import Sequence

from app.domain.cuts import inputs_of, kept_rows, one_tensor_wide, resolve_cut
from app.domain.dataset import DatasetInfo
from app.domain.errors import UserError
from app.domain.head import KEEP
from app.domain.model import LayerRow, SourceInfo
from app.domain.spec import Spec

ADVICE = 'For a new output layer leave head out and set cut to {"drop_last": 1}.'


def split(layers: Sequence[LayerRow]) -> tuple[LayerRow, list[LayerRow]]:
    """The last row below the kept head, and the kept head's rows. Raises `UserError`."""
    first = next((row.index for row in reversed(layers) if row.has_weights), None)
    if first is None:
        message = f"head 'keep' needs an output layer with weights, and this source has no weights at all. {ADVICE}"
        raise UserError(message, code="head_does_not_fit", param="head")
    head = list(layers[first:])
    below = layers[first - 1] if first else None
    if below is None or not all(inputs_of(row) == [row.index - 1] for row in head):
        message = (
            f"head 'keep' needs an output layer that ends a plain chain, and '{head[0].path}' or what follows it is "
            f"not fed by the one layer before it. {ADVICE}"
        )
        raise UserError(message, code="head_does_not_fit", param="head")
    if not (below.legal_cut and one_tensor_wide(layers)[below.index]):
        because = below.illegal_because or "other layers above need more than its output"
        message = f"head 'keep' cannot part '{head[0].path}' from '{below.path}' below it: {because}. {ADVICE}"
        raise UserError(message, code="head_does_not_fit", param="head")
    return below, head


def backbone(layers: Sequence[LayerRow], spec: Spec, *, model: str | None = None) -> list[LayerRow]:
    """The rows that `unfreeze` counts: of what the cut keeps, what is not the head. Raises `CutError`, `UserError`."""
    last = resolve_cut(layers, spec.cut, model=model)
    return kept_rows(layers, split(layers)[0] if spec.head == KEEP else last)


def check_fit(source: SourceInfo, data: DatasetInfo) -> None:
    """Raise `UserError` where the source's outputs are not what the dataset's task asks for.

    The activation is checked in training: layer tables do not know it.
    """
    wanted = len(data.classes or ()) if data.task in ("single_label", "multi_label") else data.targets
    if source.output_shape[1:] != [wanted]:
        message = (
            f"head 'keep' needs {wanted} output{'s' * (wanted != 1)} for this dataset's task '{data.task}'; the "
            f"source's output has the shape {source.output_shape[1:]}. {ADVICE}"
        )
        raise UserError(message, code="head_does_not_fit", param="head")
    if source.labels and data.classes and set(source.labels) == set(data.classes) and source.labels != data.classes:
        message = (
            f"head 'keep' would mix up the classes: the source's outputs are {', '.join(source.labels[:10])}, in this "
            f"order, the dataset's {', '.join(data.classes[:10])}. Give class_names to the dataset in that order. "
            f"{ADVICE}"
        )
        raise UserError(message, code="head_does_not_fit", param="head")
