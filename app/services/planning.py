"""Plans: what a job would do, told from its spec, the source's layer table and the dataset's figures.

layer table --cut--> backbone rows + head rows --phase--> what trains, boundary, cache, memory, time
"""

from collections.abc import Mapping, Sequence

from app.domain import boundary, costs, layout
from app.domain.boundary import Boundary
from app.domain.dataset import Dataset, DatasetInfo
from app.domain.errors import PlatformError
from app.domain.layout import Layout
from app.domain.model import LayerRow, Model
from app.domain.phases import Phase
from app.domain.plan import CachePlan, LayerPlan, PhasePlan, Plan
from app.domain.selection import Selected, select
from app.domain.spec import ResolvedSpec
from app.services import durations, warnings
from app.services.durations import Measured


def lay_out(spec: ResolvedSpec, model: Model, dataset: Dataset) -> Layout:
    """The rows of a job whose model and dataset are ready. Raises `CutError` and `UserError` as `app.domain.cuts`."""
    if model.info is None or dataset.info is None:
        message = (
            f"A plan needs a ready model and dataset; '{model.id}' is {model.status}, '{dataset.id}' {dataset.status}."
        )
        raise PlatformError(message)
    return layout.lay_out(spec, model.info, dataset.info, name=model.name)


def plan(rows: Layout, *, measured: Sequence[Measured | None] = ()) -> Plan:
    """The plan of a job. `measured`: for each phase what an earlier job took for the same; left out: nothing is known.

    Raises `UserError` as `app.domain.cuts`.
    """
    spec, kept = rows.spec, {row.index for row in rows.backbone}
    known = [*measured, *[None] * len(spec.schedule)]
    phases = [_phase_plan(rows, phase, known[index]) for index, phase in enumerate(spec.schedule)]
    seconds = [phase.time.seconds for phase in phases if phase.time]
    return Plan(
        spec=spec,
        cut_layer=rows.end.path,
        dropped_layers=[row.path for row in rows.source.layers if row.index not in kept],
        output=_output(rows.data),
        phases=phases,
        seconds=sum(seconds) if len(seconds) == len(phases) else None,
        warnings=warnings.told(spec, phases, rows.source, rows.data),
    )


# === A phase ===


def _phase_plan(rows: Layout, phase: Phase, measured: Measured | None) -> PhasePlan:
    chosen = select(rows, phase)
    cache = _cache_plan(rows, chosen.edge)
    rates = _learning_rates(rows, phase)
    layers = [_layer_plan(row, rows, chosen, rates, cached=cache.applies) for row in rows.rows]
    in_backbone = sum(layer.trained_parameters for layer in layers if layer.part == "backbone")
    trained = sum(layer.trained_parameters for layer in layers)
    reached = boundary.reached(rows.backbone, moving=chosen.moving) | {row.index for row in rows.head}
    skipped = chosen.edge.still if cache.applies else frozenset[int]()
    by_index = {row.index: row for row in rows.backbone}
    return PhasePlan(
        name=phase.name or "",
        epochs=phase.epochs,
        steps=phase.epochs * rows.steps,
        optimizer=phase.optimizer.type,
        learning_rate=phase.optimizer.learning_rate,
        unfrozen_layers=[by_index[index].path for index in sorted(chosen.unfrozen)],
        held_layers=[by_index[index].path for index in sorted(chosen.held)],
        frozen_layers=sum(row.has_weights for row in rows.backbone) - len(chosen.unfrozen),
        trainable_backbone_parameters=in_backbone,
        trainable_parameters=trained,
        layers=layers,
        boundary=[row.path for row in chosen.edge.rows],
        cache=cache,
        memory=costs.memory(
            rows.rows,
            rows.sizes,
            trained=trained,
            reached=reached,
            optimizer=phase.optimizer,
            batch_size=rows.spec.batch_size,
        ),
        time=durations.of_phase(rows, phase.epochs, reached=reached, cached=skipped, measured=measured),
    )


def _cache_plan(rows: Layout, edge: Boundary) -> CachePlan:
    """Whether the feature cache applies: by the rules of the training process."""
    if not edge.worth_caching:
        because = "nothing is the same in every epoch, as the layers that train begin at the input."
        return CachePlan(applies=False, because=because)
    numbers = None if rows.sizes is None else sum(rows.sizes[row.index] for row in edge.rows)
    return CachePlan(
        applies=True,
        because=f"what leads up to {_listed([row.path for row in edge.rows])} gives the same in every epoch.",
        bytes=None if numbers is None else numbers * costs.FLOAT_BYTES * rows.cached_examples,
    )


def _learning_rates(rows: Layout, phase: Phase) -> Mapping[int, float]:
    """The highest rate that each row gets, by its index."""
    return {row.index: phase.optimizer.learning_rate for row in rows.rows}


# === A layer ===


def _layer_plan(
    row: LayerRow, rows: Layout, chosen: Selected, rates: Mapping[int, float], *, cached: bool
) -> LayerPlan:
    in_head = row.index > rows.source.layers[-1].index
    trains = in_head or row.index in chosen.moving
    trained = boundary.trainable_parameters(row) if trains else 0
    common = {"path": row.path, "class_name": row.class_name, "parameters": row.parameters}
    told = {
        "part": "head" if in_head else "backbone",
        "trained_parameters": trained,
        "learning_rate": rates[row.index] if trained else None,
        "cached": cached and row.index in chosen.edge.still,
    }
    if not row.has_weights:
        return LayerPlan(**common, **told, state="weightless", because="it has no weights")
    if in_head:
        return LayerPlan(**common, **told, state="trains", because="the head always trains")
    if row.index in chosen.held:
        because = "unfrozen, but BatchNormalization keeps the source's statistics"
        return LayerPlan(**common, **told, state="held", because=because)
    if trains:
        return LayerPlan(**common, **told, state="trains", because="selected by unfreeze")
    unmoved = "selected by unfreeze, but training changes nothing in it"
    because = unmoved if row.index in chosen.unfrozen else "not selected by unfreeze"
    return LayerPlan(**common, **told, state="frozen", because=because)


# === Words ===


def _output(data: DatasetInfo) -> str:
    """The output layer in words."""
    if data.task == "binary" and data.classes:
        return f"sigmoid: '{data.classes[1]}' against '{data.classes[0]}'"
    if data.task == "single_label" and data.classes:
        return f"softmax over {len(data.classes)} classes"
    return "linear: 1 number" if data.targets == 1 else f"linear: {data.targets} numbers"


def _listed(paths: Sequence[str]) -> str:
    named = ", ".join(f"'{path}'" for path in paths[:3])
    return f"{named} and {len(paths) - 3} more" if len(paths) > 3 else named
