"""How jobs and events look to people."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from thaw.cli import text
from thaw.cli.output import Output

if TYPE_CHECKING:
    from thaw.client import Client
    from thaw.records import Event, Export, Interval, Job, Report

PLACED = 20


def row(job: Job) -> tuple[object, ...]:
    """A job as a line of a list."""
    return job.id, job.status, where(job), text.ago(job.created_at), job.suffix or "-"


def placed_row(client: Client) -> Callable[[Job], tuple[object, ...]]:
    """The same; the first few that are queued are asked for their place in the queue, which lists leave out."""
    queued = itertools.count(1)

    def placed(job: Job) -> tuple[object, ...]:
        return row(client.jobs.get(job.id) if job.status == "queued" and next(queued) <= PLACED else job)

    return placed


def where(job: Job) -> str:
    """Where in its schedule a job is: `head 2/4, 31 %`."""
    if job.status == "queued" and job.progress and job.progress.queue_position:
        eta = job.progress.eta_seconds
        done = f", done in about {text.duration(eta)}" if eta else ""
        return f"number {job.progress.queue_position} in the queue{done}"
    if job.status != "running":
        return "-"
    at = f"{job.phase.name} {job.phase.epoch}/{job.phase.epochs}" if job.phase else job.stage or "starting"
    percent = job.progress.percent if job.progress else None
    return f"{at}, {percent:.0f} %" if percent is not None else at


def show_job(out: Output, job: Job) -> None:
    """Everything about a job that people ask for first."""
    eta = job.progress.eta_seconds if job.progress else None
    out.facts(
        {
            "id": job.id,
            "status": job.status,
            "at": where(job) if job.status in {"running", "queued"} else None,
            "time left": f"about {text.duration(eta)}" if eta and job.status == "running" else None,
            "priority": job.priority if job.priority != "normal" else None,
            "may run": text.duration(job.max_seconds) if job.max_seconds else None,
            "deadline": text.clock(job.deadline_at) if job.deadline_at else None,
            "retry of": job.retry_of,
            "forked from": f"{job.forked_from.job} at {job.forked_from.checkpoint}" if job.forked_from else None,
            "error": f"{job.error.message} ({job.error.code})" if job.error else None,
            "set aside": f"{job.set_aside.message} ({job.set_aside.code})" if job.set_aside else None,
            "resumed": f"when a worker has room, not before {text.clock(job.resume_at)}" if job.resume_at else None,
            "adjusted": _adjusted(job),
            "created": text.ago(job.created_at),
            "took": text.duration(job.finished_at - job.started_at) if job.finished_at and job.started_at else None,
            "attempt": job.attempt.number if job.attempt and job.attempt.number > 1 else None,
            "resume fidelity": job.resume_fidelity,
            "source": job.model_id or job.model,
            "dataset": job.dataset_id or job.training_file,
            "result": job.fine_tuned_model,
            "cut": text.choice(job.cut) if job.cut else None,
            "seed": job.seed,
        }
    )
    _schedule_table(out, job.schedule)
    if job.report is not None:
        show_report(out, job.report)
    if job.artifacts:
        out.table(
            ("FILE", "SIZE", "SHA256"),
            [(found.name, text.size(found.bytes), found.sha256) for found in job.artifacts],
            numbers=("SIZE",),
        )


def _adjusted(job: Job) -> str | None:
    """`batch_size 32, now 16 (out_of_memory)`."""
    found = [
        f"batch_size {each.get('batch_size_before')}, now {each.get('batch_size')} ({each.get('reason')})"
        for each in job.adjustments
    ]
    return "; ".join(found) or None


def show_end(out: Output, job: Job) -> None:
    """How a watched job ended."""
    if job.status == "succeeded":
        out.say(f"{job.id} succeeded; its result is {job.fine_tuned_model}.")
        if job.report is not None:
            show_report(out, job.report)
        out.say(f"Download it: thaw jobs download {job.id}")
    elif job.error is not None:
        where_ = f", in phase {text.plain(job.error.phase)}" if job.error.phase else ""
        out.say(f"{job.id} {job.status}: {text.plain(job.error.message)} ({text.plain(job.error.code)}{where_})")
    else:
        out.say(f"{job.id} is {job.status}.")


def show_report(out: Output, report: Report) -> None:
    """The one look at the test split, and what was proved."""
    test = report.test
    if test.accuracy is not None:
        out.say(f"Test accuracy {interval(test.accuracy)} on {test.examples} examples.")
    if test.exact_match is not None:
        out.say(f"All labels right {interval(test.exact_match)} on {test.examples} examples.")
    if test.label_accuracy is not None:
        out.say(f"Mean label accuracy {interval(test.label_accuracy)}.")
    if test.mean_absolute_error is not None:
        out.say(f"Mean absolute error {interval(test.mean_absolute_error)} on {test.examples} examples.")
    proofs = [phase.proof for phase in report.phases if phase.proof is not None]
    if proofs:
        held = sum(proof.held for proof in proofs)
        out.say(f"Frozen variables stayed bit-identical in {held} of {len(proofs)} phases.")
    for export in report.exports:
        out.say(_export(export))
    if report.source is not None:
        out.say("The source is unchanged." if report.source.unchanged else "The source HAS CHANGED.")


def _export(export: Export) -> str:
    if export.status != "succeeded":
        return f"Export {text.plain(export.format)} failed: {text.plain(export.reason or 'no reason was given')}"
    agreement = f", the same class for {export.agreement:.1%}" if export.agreement is not None else ""
    difference = text.measured(export.difference)
    return (
        f"Export {text.plain(export.format)} differs from model.keras by at most {difference}{agreement} "
        f"({export.examples} test examples)."
    )


def interval(found: Interval) -> str:
    """`0.98 (95 % interval 0.95 to 0.99)`."""
    return f"{found.value:.4g} (95 % interval {found.low:.4g} to {found.high:.4g})"


def event_line(event: Event) -> str:
    """`14:02:11  Phase 'all', epoch 3 of 16: loss 0.31`, in local time."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.created_at))
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{clock}  {level}{text.plain(event.message)}"


def _schedule_table(out: Output, schedule: Sequence[Mapping[str, object]]) -> None:
    rows = []
    for phase in schedule:
        optimizer = phase.get("optimizer")
        chosen = optimizer if isinstance(optimizer, Mapping) else {}
        rate = text.measured(chosen.get("learning_rate", "-"))
        rows.append(
            (phase.get("name"), text.choice(phase.get("unfreeze")), phase.get("epochs"), chosen.get("type"), rate)
        )
    if rows:
        out.table(
            ("PHASE", "UNFREEZE", "EPOCHS", "OPTIMIZER", "LEARNING RATE"), rows, numbers=("EPOCHS", "LEARNING RATE")
        )
