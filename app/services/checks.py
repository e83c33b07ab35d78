"""What can be told about a spec from what is known of its model and dataset, without TensorFlow."""

from collections.abc import Sequence

from app.domain.cuts import kept_rows, resolve_cut, select_unfrozen
from app.domain.errors import CutError, FieldProblem, InvalidRequestError, UserError
from app.domain.model import LayerRow, Model
from app.domain.spec import CutLayer, Phase, Spec, UnfreezeFrom


def problems(spec: Spec, model: Model | None) -> list[FieldProblem]:
    """Every field that does not fit. A model that is not known yet (`None`, or not ready) is not checked."""
    if model is None or model.info is None:
        return []
    layers = model.info.layers
    try:
        last = resolve_cut(layers, spec.cut, model=model.name)
    except CutError as error:
        allowed = [row.path for row in layers if row.legal_cut] if isinstance(spec.cut, CutLayer) else None
        return [_problem("", error, allowed)]
    backbone = kept_rows(layers, last)
    found = [_unfreeze_problem(index, phase, backbone) for index, phase in enumerate(spec.schedule)]
    return [problem for problem in found if problem is not None]


def refuse(found: Sequence[FieldProblem]) -> None:
    """Raise one `InvalidRequestError` for all wrong fields of a request, if there are any."""
    if not found:
        return
    first = found[0]
    if len(found) == 1:
        message = first.message
    else:
        listed = " ".join(f"{problem.pointer}: {problem.message}" for problem in found)
        message = f"{len(found)} fields are wrong. {listed}"
    raise InvalidRequestError(message, param=first.pointer.removeprefix("/").replace("/", "."), problems=found)


def _unfreeze_problem(index: int, phase: Phase, backbone: Sequence[LayerRow]) -> FieldProblem | None:
    try:
        select_unfrozen(backbone, phase.unfreeze)
    except UserError as error:
        named = isinstance(phase.unfreeze, UnfreezeFrom)
        return _problem(f"/schedule/{index}", error, [row.path for row in backbone] if named else None)
    return None


def _problem(where: str, error: UserError, allowed: list[str] | None) -> FieldProblem:
    pointer = f"{where}/{(error.param or '').replace('.', '/')}"
    return FieldProblem(pointer=pointer, code=error.work_code, message=error.message, allowed=allowed)
