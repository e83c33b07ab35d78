"""From a spec, a source and a dataset to what trains: the network, and what it is trained by.

source ─ cut ─▶ backbone ─ new head, or the source's own ─▶ network ─ training ─▶ network in float32
"""

import keras

from app.domain import kept, weighing
from app.domain.dataset import DatasetInfo
from app.domain.head import Head
from app.domain.spec import CutLayer, ResolvedSpec
from worker.engine import convolutions, runtime, surgery
from worker.engine.objective import Objective
from worker.engine.sources import Source
from worker.engine.steps import Network


def objective(spec: ResolvedSpec, data: DatasetInfo) -> Objective:
    """Loss and metric of the dataset's task. Raises `UserError` for what this dataset cannot have."""
    weighing.check_smoothing(spec, data)
    weights = weighing.class_weights(spec, data)
    return Objective(
        data.task,
        class_weights=tuple(weights.values()) if weights else None,
        label_smoothing=spec.label_smoothing,
    )


def network(spec: ResolvedSpec, origin: Source, data: DatasetInfo) -> Network:
    """The backbone with its head. Raises `CutError` and `UserError`."""
    if not isinstance(spec.head, Head):
        return _with_own_head(spec, origin, data)
    backbone = surgery.cut_at(
        origin, spec.cut, seed=spec.seed, weights=spec.backbone_weights, precision=spec.mixed_precision
    )
    outputs = len(data.classes or ()) if data.task in ("single_label", "multi_label") else data.targets
    model = surgery.attach_head(
        backbone, spec.head, task=data.task, outputs=outputs, seed=spec.seed, precision=spec.mixed_precision
    )
    return _in_two_parts(model, backbone)


def finished(trained: Network, spec: ResolvedSpec) -> Network:
    """The network as it is judged and given away: in float32."""
    if spec.mixed_precision == "off":
        return trained
    model = surgery.in_float32(trained.model, seed=spec.seed)
    return Network(model=model, backbone=model, head=model)


def _with_own_head(spec: ResolvedSpec, origin: Source, data: DatasetInfo) -> Network:
    kept.check_fit(origin.info, data)
    below, _ = kept.split(origin.info.layers)
    backbone = surgery.cut_at(
        origin,
        CutLayer(layer=below.path),
        seed=spec.seed,
        weights=spec.backbone_weights,
        precision=spec.mixed_precision,
    )
    model = surgery.keep_head(origin, backbone, task=data.task, seed=spec.seed, weights=spec.backbone_weights)
    return _in_two_parts(model, backbone)


def _in_two_parts(model: keras.Model, backbone: keras.Model) -> Network:
    if runtime.device_name() == runtime.CPU:
        convolutions.make_sound(model)
    return Network(model=model, backbone=backbone, head=keras.Model(backbone.outputs[0], model.outputs[0]))
