"""`thaw jobs`: create, list, show, watch, cancel, pause, resume, events, download; and `thaw plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thaw.cli import again, jobfile, jobviews, listing, planview, watch
from thaw.cli.again import PriorityOption
from thaw.cli.output import Output
from thaw.cli.session import (
    INTERRUPTED,
    REFUSED,
    All,
    AsJson,
    BadInputError,
    Force,
    JobId,
    Limit,
    Session,
    session,
)
from thaw.cli.transfers import bar, refuse_to_replace

if TYPE_CHECKING:
    from thaw.records import Job


app = typer.Typer(no_args_is_help=True, help="Fine-tuning runs, from the request to the downloaded model.")
app.command()(again.retry)
app.command()(again.fork)

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="The job as YAML or JSON, with the API's fields; - is standard input."),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="A model's id, or a local file that is pushed first.", show_default=False)
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="A dataset's id, or a local file that is pushed first.", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field: seed=7, or schedule.0.epochs=2. Repeatable."),
]


@app.command()
def create(
    context: typer.Context,
    *,
    file: JobFile = None,
    model: ModelOption = None,
    data: DataOption = None,
    changes: Changes = None,
    priority: PriorityOption = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job.

    `model` and `training_file` may be paths of local files (seen from the job file's folder), which are pushed
    first. What is left out is the textbook recipe: 4 epochs with everything frozen but the head, then 16 with
    everything unfrozen.

    Example: thaw jobs create -f job.yaml --watch

    Example: thaw jobs create --model digits.keras --data shoes.zip --set seed=7 --priority high
    """
    with session(context, as_json=as_json) as opened:
        request = jobfile.push_local(opened, _request(file, model, data, changes))
        if priority is not None:
            request["priority"] = priority
        job = opened.client.jobs.create(**request)
        if follow:
            _announce(opened.out, job)
            _watch(opened, job.id)
        elif opened.out.as_json:
            opened.out.document(job.raw)
        else:
            opened.out.say(job.id)
            opened.out.note(f"It is {job.status}. Watch it: thaw jobs watch {job.id}")


def plan(
    context: typer.Context,
    *,
    file: JobFile = None,
    model: ModelOption = None,
    data: DataOption = None,
    changes: Changes = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show a table of all layers for each phase.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a job would do, without creating it: what trains in each phase, what it costs, warnings.

    Each phase is drawn as a strip of the model's layers. Memory and time are estimates. The plan needs the model and
    the data to be on the service, so that local files are pushed, as by `jobs create`.

    Example: thaw plan -f job.yaml

    Example: thaw plan -f job.yaml --layers --set cut.drop_last=3
    """
    with session(context, as_json=as_json) as opened:
        request = jobfile.push_local(opened, _request(file, model, data, changes))
        found = opened.client.jobs.plan(**request)
        if opened.out.as_json:
            opened.out.document(found.raw)
        else:
            planview.show_plan(opened.out, found, layers=layers)


@app.command("list")
def list_jobs(
    context: typer.Context,
    *,
    status: Annotated[Status | None, typer.Option(help="Only those.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those that train from this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only those that train on this dataset.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only those with this metadata. Repeatable.")
    ] = None,
    limit: Limit = 20,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first.

    Example: thaw jobs list --status running
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.jobs.list(status=status, model=model, dataset=dataset, metadata=_pairs(metadata or []))
        listing.show(
            out,
            found,
            limit=None if everything else limit,
            columns=("ID", "STATUS", "AT", "CREATED", "NAME"),
            row=jobviews.placed_row(client),
        )


@app.command()
def show(context: typer.Context, job: JobId, *, as_json: AsJson = False) -> None:
    """Show a job: where it is, or how it ended, with its test accuracy and 95 % interval.

    Example: thaw jobs show ftjob-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.jobs.get(job)
        if out.as_json:
            out.document(found.raw)
        else:
            jobviews.show_job(out, found)


@app.command("watch")
def watch_job(context: typer.Context, job: JobId, *, as_json: AsJson = False) -> None:
    """Watch a job until it has ended: phases, epochs, metrics, what is frozen, time left.

    Ctrl-C only ends the watching (exit code 130); the job goes on. The exit code is 0 if it succeeded and 1 if it
    failed or was cancelled. With --json, one event a line.

    Example: thaw jobs watch ftjob-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as opened:
        _watch(opened, job)


@app.command()
def cancel(context: typer.Context, job: JobId, *, as_json: AsJson = False) -> None:
    """Cancel a job. A running one stops within one training step; asking again is fine.

    Example: thaw jobs cancel ftjob-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.jobs.cancel(job)
        _answer(out, found, "" if found.finished else "; it was asked to stop")


@app.command()
def pause(context: typer.Context, job: JobId, *, as_json: AsJson = False) -> None:
    """Pause a job. A running one stops within one training step, with a checkpoint; asking again is fine.

    Example: thaw jobs pause ftjob-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.jobs.pause(job)
        _answer(out, found, "" if found.status == "paused" else "; it was asked to pause")


@app.command()
def resume(context: typer.Context, job: JobId, *, as_json: AsJson = False) -> None:
    """Resume a paused job: it goes on where it was, and ends in the weights that it would have had anyway.

    Example: thaw jobs resume ftjob-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        _answer(out, client.jobs.resume(job), "")


def _answer(out: Output, job: Job, more: str) -> None:
    if out.as_json:
        out.document(job.raw)
    else:
        out.say(f"{job.id} is {job.status}{more}.")


@app.command()
def events(
    context: typer.Context,
    job: JobId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones until the job has ended.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="Only those with a higher number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print a job's events. With --json, one a line.

    Example: thaw jobs events ftjob-01jd8k2v7e0000000000000000 --follow --json
    """
    with session(context, as_json=as_json) as (client, out):
        for event in client.jobs.events(job, after=after, follow_on=follow):
            if out.as_json:
                out.line(event.raw)
            else:
                out.say(jobviews.event_line(event))


@app.command()
def download(
    context: typer.Context,
    job: JobId,
    names: Annotated[
        list[str] | None, typer.Argument(help="Which files. [default: model.keras]", show_default=False)
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to put them in.", file_okay=False)
    ] = Path(),
    everything: Annotated[bool, typer.Option("--all", help="All files that the job has produced.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Download what a job has produced; each file is compared with its sha256 before it gets its name.

    There are model.keras and the exports that the job asked for (saved_model.zip, model.tflite, model_int8.tflite,
    model.onnx), labels.json, metrics.csv, history.json, report.json, MODEL_CARD.md, events.out.tfevents.thaw (for
    TensorBoard) and manifest.json.

    Example: thaw jobs download ftjob-01jd8k2v7e0000000000000000 model.keras labels.json -o shoes
    """
    with session(context, as_json=as_json) as opened:
        available = [artifact.name for artifact in opened.client.jobs.artifacts(job)] if everything else []
        chosen = available or names or ["model.keras"]
        for name in chosen:
            refuse_to_replace(output / name, force=force)
        _make_folder(output)
        saved = [_save(opened, job, name, output) for name in chosen]
        if opened.out.as_json:
            opened.out.document({"id": job, "paths": [str(path.absolute()) for path in saved]})
        for path in () if opened.out.as_json else saved:
            opened.out.say(str(path))


def _save(opened: Session, job: str, name: str, folder: Path) -> Path:
    with bar(opened.out, name) as progress:
        return opened.client.jobs.download(job, name, folder, on_progress=progress)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"The folder {folder} cannot be made: {error.strerror or error}."
        raise BadInputError(message) from error


def _request(file: Path | None, model: str | None, data: str | None, changes: list[str] | None) -> dict[str, object]:
    if file is None and model is None and data is None:
        message = "Say what to do: a job file with -f job.yaml, or --model and --data."
        raise BadInputError(message)
    return jobfile.read(file, model=model, data=data, changes=changes or ())


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in given]
    for key, separator, _ in pairs:
        if not separator or not key:
            message = f"--metadata takes KEY=VALUE; received {key!r}."
            raise BadInputError(message)
    return {key: value for key, _, value in pairs}


def _announce(out: Output, job: Job) -> None:
    if out.as_json:
        out.line(job.raw)
    else:
        out.note(f"Created {job.id}.")


def _watch(opened: Session, job_id: str) -> None:
    """Watch, and leave with the exit code that the job's end asks for."""
    try:
        job = watch.watch(opened, job_id)
    except KeyboardInterrupt:
        opened.out.note(
            f"\nNo longer watching; the job goes on. Again: thaw jobs watch {job_id}. "
            f"To stop it: thaw jobs cancel {job_id}."
        )
        raise typer.Exit(INTERRUPTED) from None
    if not opened.out.as_json:
        jobviews.show_end(opened.out, job)
    if job.status != "succeeded":
        raise typer.Exit(REFUSED)
