"""`thaw jobs retry` and `thaw jobs fork`: new jobs of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from thaw.cli import jobfile
from thaw.cli.session import AsJson, JobId, Priority, session

if TYPE_CHECKING:
    from thaw.cli.output import Output
    from thaw.records import Job
    from thaw.requests import ForkRequest, RetryRequest

PriorityOption = Annotated[
    Priority | None, typer.Option(help="Queued jobs with a higher one go first.", show_default=False)
]
MaxSeconds = Annotated[
    float | None, typer.Option(min=1, help="How long it may run, in seconds; pauses do not count.", show_default=False)
]


def retry(
    context: typer.Context,
    job: JobId,
    *,
    priority: PriorityOption = None,
    max_seconds: MaxSeconds = None,
    as_json: AsJson = False,
) -> None:
    """Do a job again that failed or was cancelled: a new job with the same spec and seed.

    Example: thaw jobs retry ftjob-01jd8k2v7e0000000000000000

    Example: thaw jobs retry ftjob-01jd8k2v7e0000000000000000 --max-seconds 7200
    """
    given = {"priority": priority, "max_seconds": max_seconds}
    with session(context, as_json=as_json) as (client, out):
        changes = {name: value for name, value in given.items() if value is not None}
        _show(out, client.jobs.retry(job, **cast("RetryRequest", changes)))


def fork(
    context: typer.Context,
    job: JobId,
    *,
    after: Annotated[str | None, typer.Option(help="The phase at whose end to start.", show_default=False)] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights of the job, by the id of their checkpoint.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="What is to be different, as YAML or JSON with the API's fields."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What is to be different: seed=7. Repeatable."),
    ] = None,
    priority: PriorityOption = None,
    as_json: AsJson = False,
) -> None:
    """Start a new job from weights that a job had; left out, at the end of its last phase, or where its time was over.

    Without a schedule it goes on with what was left. Source, cut and head stay as they are.

    Example: thaw jobs fork ftjob-01jd8k2v7e0000000000000000 --after head --set seed=7

    Example: thaw jobs fork ftjob-01jd8k2v7e0000000000000000 -f longer.yaml
    """
    given = {"after_phase": after, "checkpoint": checkpoint, "priority": priority}
    with session(context, as_json=as_json) as (client, out):
        wanted = jobfile.read_changes(file, changes or ())
        wanted |= {name: value for name, value in given.items() if value is not None}
        _show(out, client.jobs.fork(job, **cast("ForkRequest", wanted)))


def _show(out: Output, job: Job) -> None:
    if out.as_json:
        out.document(job.raw)
        return
    out.say(job.id)
    out.note(f"It is {job.status}. Watch it: thaw jobs watch {job.id}")
