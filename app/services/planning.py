"""Plans: what a job would do, told from its spec, the source's layer table and the dataset's figures."""

from collections.abc import Sequence

from app.domain import kept
from app.domain.cuts import kept_rows, resolve_cut, select_unfrozen
from app.domain.dataset import Dataset, DatasetInfo
from app.domain.errors import PlatformError
from app.domain.job import PhasePlan, Plan
from app.domain.model import LayerRow, Model
from app.domain.phases import Phase
from app.domain.spec import ResolvedSpec
from app.services import warnings


def plan(spec: ResolvedSpec, model: Model, dataset: Dataset) -> Plan:
    """The plan of a job whose model and dataset are ready. Raises `CutError` and `UserError` as `app.domain.cuts`."""
    if model.info is None or dataset.info is None:
        message = (
            f"A plan needs a ready model and dataset; '{model.id}' is {model.status}, '{dataset.id}' {dataset.status}."
        )
        raise PlatformError(message)
    last = resolve_cut(model.info.layers, spec.cut, model=model.name)
    reused = {row.index for row in kept_rows(model.info.layers, last)}
    backbone = kept.backbone(model.info.layers, spec)
    phases = [_phase_plan(phase, backbone) for phase in spec.schedule]
    return Plan(
        spec=spec,
        cut_layer=last.path,
        dropped_layers=[row.path for row in model.info.layers if row.index not in reused],
        output=_output(dataset.info),
        phases=phases,
        warnings=warnings.told(spec, phases, model.info, dataset.info),
    )


def _phase_plan(phase: Phase, backbone: Sequence[LayerRow]) -> PhasePlan:
    unfrozen = select_unfrozen(backbone, phase.unfreeze)
    return PhasePlan(
        name=phase.name or "",
        epochs=phase.epochs,
        optimizer=phase.optimizer.type,
        learning_rate=phase.optimizer.learning_rate,
        unfrozen_layers=[row.path for row in unfrozen],
        frozen_layers=sum(row.has_weights for row in backbone) - len(unfrozen),
        trainable_backbone_parameters=sum(row.parameters for row in unfrozen),
    )


def _output(data: DatasetInfo) -> str:
    """The output layer in words."""
    if data.task == "binary" and data.classes:
        return f"sigmoid: '{data.classes[1]}' against '{data.classes[0]}'"
    if data.task == "single_label" and data.classes:
        return f"softmax over {len(data.classes)} classes"
    if data.task == "multi_label" and data.classes:
        return f"a sigmoid for each of {len(data.classes)} labels"
    return "linear: 1 number" if data.targets == 1 else f"linear: {data.targets} numbers"
