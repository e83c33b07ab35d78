"""Plans: what a job would do, told from its spec, the source's layer table and the dataset's figures.

layer table --cut--> backbone rows + head rows --phase--> what trains, boundary, cache, memory, time
"""

from collections.abc import Mapping, Sequence

from app.domain import boundary, estimates, layout
from app.domain.boundary import Boundary
from app.domain.caching import PAYS_FROM_MULTIPLY_ADDS
from app.domain.cost import multiply_adds
from app.domain.dataset import Dataset, DatasetInfo
from app.domain.errors import PlatformError
from app.domain.layout import Layout
from app.domain.model import LayerRow, Model
from app.domain.phases import Phase
from app.domain.plan import NOTHING_STILL, CachePlan, LayerPlan, LayerState, PhasePlan, Plan
from app.domain.selection import Selected, highest_rates, select
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


def plan(rows: Layout, *, measured: Sequence[Measured | None], features_bytes: int) -> Plan:
    """The plan of a job.

    `measured`: for each phase what an earlier job took for the same. `features_bytes`: largest cache of features.
    Raises `UserError` as `app.domain.cuts`.
    """
    spec, reused = rows.spec, {row.index for row in rows.rows}
    phases = [
        _phase_plan(rows, phase, known, features_bytes=features_bytes)
        for phase, known in zip(spec.schedule, measured, strict=True)
    ]
    seconds = [phase.time.seconds for phase in phases if phase.time]
    return Plan(
        spec=spec,
        cut_layer=rows.cut.path,
        dropped_layers=[row.path for row in rows.source.layers if row.index not in reused],
        output=_output(rows.data),
        phases=phases,
        seconds=sum(seconds) if len(seconds) == len(phases) else None,
        warnings=warnings.told(spec, phases, rows.source, rows.data),
    )


# === A phase ===


def _phase_plan(rows: Layout, phase: Phase, measured: Measured | None, *, features_bytes: int) -> PhasePlan:
    chosen = select(rows, phase)
    cache = _cache_plan(rows, phase, chosen.edge, features_bytes=features_bytes)
    rates = highest_rates(rows, phase)
    layers = [_layer_plan(row, rows, chosen, rates, cached=cache.applies) for row in rows.rows]
    trained = sum(layer.trained_parameters for layer in layers)
    reached = boundary.reached(rows.rows, moving={*chosen.moving, *_first_trained(rows.head)})
    cached = chosen.edge.still if cache.applies else frozenset[int]()
    return PhasePlan(
        name=phase.name or "",
        epochs=phase.epochs,
        steps=phase.epochs * rows.steps(phase),
        optimizer=phase.optimizer.type,
        learning_rate=phase.optimizer.learning_rate,
        learning_rate_schedule=phase.learning_rate_schedule.type,
        unfrozen_layers=[row.path for row in chosen.unfrozen],
        held_layers=[row.path for row in chosen.unfrozen if row.index in chosen.held],
        frozen_layers=sum(row.has_weights for row in rows.backbone) - len(chosen.unfrozen),
        trainable_backbone_parameters=sum(layer.trained_parameters for layer in layers if layer.part == "backbone"),
        trainable_parameters=trained,
        layers=layers,
        boundary=[row.path for row in chosen.edge.rows],
        cache=cache,
        memory=estimates.memory(
            rows.rows,
            rows.sizes,
            trained=trained,
            reached=reached,
            optimizer=phase.optimizer,
            batch_size=rows.spec.batch_size,
            number_bytes=rows.number_bytes,
        ),
        time=durations.of_phase(rows, phase.epochs, reached=reached, cached=cached, measured=measured),
    )


def _first_trained(head: Sequence[LayerRow]) -> list[int]:
    """The lowest row of the head that trains: gradients pass it and everything above."""
    return [row.index for row in head if row.has_weights][:1]


def _cache_plan(rows: Layout, phase: Phase, edge: Boundary, *, features_bytes: int) -> CachePlan:
    """Whether the feature cache applies: by the rules of the training process (`worker.engine.caching`)."""
    numbers = None if rows.sizes is None else sum(rows.sizes[row.index] for row in edge.rows)
    needed = None if numbers is None else numbers * rows.number_bytes * rows.cached_examples
    why_not = _why_not_cached(rows, phase, edge)
    if why_not is None and needed is not None and needed > features_bytes:
        why_not = f"its {needed:,} bytes are more than the {features_bytes:,} that are allowed"
    if why_not is not None:
        return CachePlan(applies=False, because=why_not)
    because = f"what leads up to {_listed([row.path for row in edge.rows])} gives the same in every epoch"
    return CachePlan(applies=True, because=because, bytes=needed)


def _why_not_cached(rows: Layout, phase: Phase, edge: Boundary) -> str | None:
    spec = rows.spec
    if spec.cache == "off":
        return "the job switches it off"
    if not edge.has_weights:
        return NOTHING_STILL
    if spec.augmentation:
        return "augmentation changes the examples in every epoch"
    if spec.cache == "require":
        return None
    passes = (phase.epochs - 1) * rows.cached_examples
    saved = passes * sum(_multiply_adds(row, rows.example_shape) for row in rows.rows if row.index in edge.still)
    return "it would save too little" if saved < PAYS_FROM_MULTIPLY_ADDS else None


def _multiply_adds(row: LayerRow, example_shape: Sequence[int]) -> int:
    shape = row.output_shape or []
    first = next((side for side in shape if isinstance(side, list)), None)  # of several outputs
    flat = first or [side for side in shape if not isinstance(side, list)]
    return multiply_adds(row.parameters, flat, example_shape)


# === A layer ===


def _layer_plan(
    row: LayerRow, rows: Layout, chosen: Selected, rates: Mapping[int, float], *, cached: bool
) -> LayerPlan:
    in_head = any(row is each for each in rows.head)
    state, because = _state(row, chosen, in_head=in_head)
    trained = boundary.trainable_parameters(row) if state == "trains" else 0
    return LayerPlan(
        path=row.path,
        class_name=row.class_name,
        part="head" if in_head else "backbone",
        parameters=row.parameters,
        trained_parameters=trained,
        state=state,
        because=because,
        learning_rate=rates[row.index] if trained else None,
        cached=cached and row.index in chosen.edge.still,
    )


def _state(row: LayerRow, chosen: Selected, *, in_head: bool) -> tuple[LayerState, str]:
    """What happens to the row's weights, and why."""
    if not row.has_weights:
        return "weightless", "no weights"
    if in_head:
        return "trains", "the head always trains"
    if row.index in chosen.held:
        return "held", "unfrozen, but held"
    if row.index not in chosen.moving:
        return "frozen", "not unfrozen"
    if boundary.trainable_parameters(row) or boundary.is_batch_norm(row):  # whose statistics move in any case
        return "trains", "unfrozen"
    return "frozen", "unfrozen, but has nothing to train"


# === Words ===


def _output(data: DatasetInfo) -> str:
    """The output layer in words."""
    if data.task == "binary" and data.classes:
        return f"sigmoid: '{data.classes[1]}' against '{data.classes[0]}'"
    if data.task == "single_label" and data.classes:
        return f"softmax over {len(data.classes)} classes"
    if data.task == "multi_label" and data.classes:
        return f"a sigmoid for each of {len(data.classes)} labels"
    return "linear: 1 number" if data.targets == 1 else f"linear: {data.targets} numbers"


def _listed(paths: Sequence[str]) -> str:
    named = ", ".join(f"'{path}'" for path in paths[:3])
    return f"{named} and {len(paths) - 3} more" if len(paths) > 3 else named
