"""What earlier jobs took for what a new one would do: the same source, dataset, cut and frozen layers."""

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
_What = tuple[frozenset[int], frozenset[int]]
"""Rows that move, and BatchNormalization that is held."""
_MAY_DIFFER = {"cut", "head", "schedule", "preset", "seed", "backbone_weights", "class_weights", "label_smoothing"}
"""Fields of the spec that do not change how long an epoch takes, or that are compared by what they mean."""


def find(session: Session, project: str, layout: Layout, *, model: Model, dataset_id: str) -> list[Measured | None]:
    """For each phase what the newest job took that did the same, or `None`."""
    earlier = jobs.trained_with(session, project, model=model.id, dataset=dataset_id, limit=JOBS)
    done = [(job, index, what) for job in earlier for index, what in enumerate(_phases_of(job.spec, layout))]
    wanted = [_what(select(layout, phase)) for phase in layout.spec.schedule]
    known: dict[_What, Measured] = {}
    for job, index, what in done:
        if what in wanted and what not in known and (found := _read(session, project, job, index)):
            known[what] = found
    return [known.get(what) for what in wanted]


def _phases_of(spec: ResolvedSpec, layout: Layout) -> list[_What]:
    """What each phase of an earlier job did; nothing, if the job is not comparable."""
    if _rest(spec) != _rest(layout.spec):
        return []
    try:
        other = lay_out(spec, layout.source, layout.data)
    except UserError:  # of a job from before a change of the rules
        return []
    return [_what(select(other, phase)) for phase in spec.schedule] if _ends_alike(other, layout) else []


def _what(chosen: Selected) -> _What:
    return chosen.moving, chosen.held


def _ends_alike(one: Layout, other: Layout) -> bool:
    """The same backbone below the head, whatever the head."""
    return one.backbone[-1].index == other.backbone[-1].index and len(one.backbone) == len(other.backbone)


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
