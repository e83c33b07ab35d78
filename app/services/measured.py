"""What earlier jobs took for what a new one would do: the same source, dataset, cut and frozen layers."""

from collections.abc import Sequence
from statistics import median

from sqlalchemy.orm import Session

from app.domain.errors import UserError
from app.domain.layout import Layout, lay_out
from app.domain.model import Model
from app.domain.selection import Selected, select
from app.domain.spec import ResolvedSpec
from app.services.durations import Measured
from app.storage import jobs, metrics
from app.storage.jobs import Trained

JOBS = 10
"""So many of the newest are looked at."""
EPOCHS = 50
"""So many of a phase are read."""
_MAY_DIFFER = {"cut", "head", "schedule", "preset", "seed", "backbone_weights", "class_weights", "label_smoothing"}
"""Fields of the spec that do not change how long an epoch takes, or that are compared by what they mean."""


def find(session: Session, project: str, layout: Layout, *, model: Model, dataset_id: str) -> list[Measured | None]:
    """For each phase what the newest job took that did the same, or `None`."""
    earlier = jobs.trained_with(session, project, model=model.id, dataset=dataset_id, limit=JOBS)
    alike = [(job, _layout_of(job.spec, layout)) for job in earlier if _rest(job.spec) == _rest(layout.spec)]
    same_cut = [(job, other) for job, other in alike if other is not None and _ends_alike(other, layout)]
    wanted = [select(layout, phase) for phase in layout.spec.schedule]
    return [_of_phase(session, project, each, same_cut) for each in wanted]


def _of_phase(
    session: Session, project: str, wanted: Selected, earlier: Sequence[tuple[Trained, Layout]]
) -> Measured | None:
    for job, layout in earlier:
        for index, phase in enumerate(layout.spec.schedule):
            if _same(wanted, select(layout, phase)):
                found = _read(session, project, job, index)
                if found is not None:
                    return found
    return None


def _ends_alike(one: Layout, other: Layout) -> bool:
    """The same backbone below the head, whatever the head."""
    return one.backbone[-1].index == other.backbone[-1].index and len(one.backbone) == len(other.backbone)


def _same(one: Selected, other: Selected) -> bool:
    return (one.moving, one.held) == (other.moving, other.held)


def _read(session: Session, project: str, job: Trained, index: int) -> Measured | None:
    epochs = metrics.seconds_of_phase(session, project, job.id, phase_index=index + 1, limit=EPOCHS)
    report = jobs.report_of(session, project, job.id)
    if not epochs or report is None or index >= len(report.phases):
        return None
    # The first epoch traces and compiles.
    usual = median(epochs[1:] or epochs)
    whole = report.phases[index]
    return Measured(
        epoch_seconds=usual,
        start_seconds=max(whole.seconds - usual * whole.epochs_run, 0.0),
        device=report.device,
    )


def _rest(spec: ResolvedSpec) -> dict[str, object]:
    return spec.model_dump(exclude=_MAY_DIFFER)


def _layout_of(spec: ResolvedSpec, layout: Layout) -> Layout | None:
    """`None` for a job from before a change of the rules, whose cut or selection is none any more."""
    try:
        return lay_out(spec, layout.source, layout.data)
    except UserError:
        return None
