"""What can be told about a spec from what is known of its model and dataset, without TensorFlow."""

from collections.abc import Sequence

from app.domain import kept, weighing
from app.domain.boundary import is_batch_norm
from app.domain.cuts import select_unfrozen
from app.domain.dataset import Dataset, DatasetInfo
from app.domain.errors import CutError, FieldProblem, InvalidRequestError, UserError
from app.domain.fitting import check_augmentation, check_types, choose_rescale, fit_shape
from app.domain.head import KEEP
from app.domain.inputs import used_inputs, views
from app.domain.model import LayerRow, Model, SourceInfo
from app.domain.phases import Phase, UnfreezeFrom
from app.domain.spec import CutLayer, Spec, phases_of, preset_of


def problems(spec: Spec, model: Model | None, dataset: Dataset | None) -> list[FieldProblem]:
    """Every field that does not fit. What is not known yet (`None`, or not ready) is not checked."""
    source, data = model and model.info, dataset and dataset.info
    found = _of_layers(spec, source, model.name) if model and source else []
    found += _of_labels(spec, data) if data else []
    return found + (_of_examples(spec, source, data) if source and data else [])


def refuse(found: Sequence[FieldProblem]) -> None:
    """Raise one `InvalidRequestError` for all wrong fields of a request, if there are any."""
    if found:
        raise refusal(found)


def refusal(found: Sequence[FieldProblem]) -> InvalidRequestError:
    """The error for all wrong fields of a request, at least one."""
    first = found[0]
    if len(found) == 1:
        message = first.message
    else:
        listed = " ".join(f"{problem.pointer}: {problem.message}" for problem in found)
        message = f"{len(found)} fields are wrong. {listed}"
    return InvalidRequestError(message, param=first.pointer.removeprefix("/").replace("/", "."), problems=found)


def _of_layers(spec: Spec, source: SourceInfo, name: str) -> list[FieldProblem]:
    """An illegal cut; or, as they count from there, selections of phases that select nothing."""
    try:
        backbone = kept.backbone(source.layers, spec, model=name)
    except UserError as error:
        named = isinstance(error, CutError) and isinstance(spec.cut, CutLayer)
        return [_problem("", error, [row.path for row in source.layers if row.legal_cut] if named else None)]
    found = [_unfreeze_problem(index, phase, backbone) for index, phase in enumerate(phases_of(spec))]
    if spec.backbone_weights == "source" and preset_of(spec) != "from_scratch":
        found += [_held_problem(index, phase, backbone) for index, phase in enumerate(phases_of(spec))]
    pointers = {} if isinstance(spec.schedule, list) else {"pointer": "/schedule"}  # a preset has no phases to point at
    return [problem.model_copy(update=pointers) for problem in found if problem is not None]


def _of_labels(spec: Spec, data: DatasetInfo) -> list[FieldProblem]:
    """What the labels of this dataset cannot have, or do not."""
    found = []
    for check in (weighing.class_weights, weighing.check_smoothing):
        try:
            check(spec, data)
        except UserError as error:
            found.append(_problem("", error, None))
    return found


def _of_examples(spec: Spec, source: SourceInfo, data: DatasetInfo) -> list[FieldProblem]:
    """Examples that cannot become what the source takes: by the very rules of the training process."""
    try:
        if spec.head == KEEP:
            kept.check_fit(source, data)
        for view in views(spec.preprocessing, source, data, used=_used(spec, source)):
            check_types(choose_rescale(view.wanted, view.source, view.data), view.source, view.data)
            check_augmentation(spec.augmentation, fit_shape(view.wanted, view.source, view.data).picture_shape, data)
    except UserError as error:
        if error.param is not None:
            return [_problem("", error, None)]
        return [FieldProblem(pointer="/training_file", code=error.work_code, message=error.message)]
    return []


def _used(spec: Spec, source: SourceInfo) -> list[str]:
    """The inputs that the backbone needs; all of them where the cut itself is wrong."""
    try:
        return used_inputs(kept.backbone(source.layers, spec))
    except UserError:
        return [each.name for each in source.inputs]


def _unfreeze_problem(index: int, phase: Phase, backbone: Sequence[LayerRow]) -> FieldProblem | None:
    try:
        select_unfrozen(backbone, phase.unfreeze)
    except UserError as error:
        named = isinstance(phase.unfreeze, UnfreezeFrom)
        return _problem(f"/schedule/{index}", error, [row.path for row in backbone] if named else None)
    return None


def _held_problem(index: int, phase: Phase, backbone: Sequence[LayerRow]) -> FieldProblem | None:
    """A phase that unfreezes nothing but BatchNormalization, and holds it: the training process would refuse it."""
    try:
        rows = select_unfrozen(backbone, phase.unfreeze)
    except UserError:  # told already
        return None
    if phase.batch_norm == "train" or not rows or not all(is_batch_norm(row) for row in rows):
        return None
    message = (
        f"This phase unfreezes nothing but BatchNormalization ({len(rows)} layers, the topmost '{rows[-1].path}'), "
        "which is held still. Unfreeze other layers too, say 'none', or batch_norm 'train'."
    )
    return FieldProblem(pointer=f"/schedule/{index}/unfreeze", code="nothing_to_unfreeze", message=message)


def _problem(where: str, error: UserError, allowed: list[str] | None) -> FieldProblem:
    pointer = f"{where}/{(error.param or '').replace('.', '/')}"
    return FieldProblem(pointer=pointer, code=error.work_code, message=error.message, allowed=allowed)
