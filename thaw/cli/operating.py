"""`thaw doctor`, `backup`, `restore`: for those who run the service, on the machine where it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thaw.cli.output import Output
from thaw.cli.service import DataDir, read_settings, require_api
from thaw.cli.session import REFUSED, AsJson, output, reported
from thaw.errors import ThawClientError

if TYPE_CHECKING:
    from app.backup import Summary


def doctor(context: typer.Context, *, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Examine the service on this machine: database, disk, broker, store, workers, queues, devices, clock.

    Uses the settings of the service, asks its parts directly, and says what to do. The exit code is 1 if there is a
    problem.

    Example: thaw doctor

    Example: thaw doctor --json
    """
    out = output(context, as_json=as_json)
    with reported(out):
        require_api("thaw doctor")
        settings = read_settings(data_dir)
    from app.doctor import examine

    findings = examine(settings)
    problems = sum(finding.verdict == "problem" for finding in findings)
    if out.as_json:
        checks = [
            {"check": each.check, "status": each.verdict, "found": each.found, "advice": each.advice or None}
            for each in findings
        ]
        out.document({"healthy": not problems, "checks": checks})
    else:
        rows = [(each.check, each.verdict, each.found, each.advice) for each in findings]
        out.table(("CHECK", "STATUS", "FOUND", "WHAT TO DO"), rows)
    if problems:
        raise typer.Exit(REFUSED)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write.", show_default=False)],
    *,
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a backup that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write everything that the service on this machine keeps to one file, while it runs.

    Database and artifacts, as they were at one moment; not the API key. For services with SQLite (`thaw up`).

    Example: thaw backup thaw-monday.tar
    """
    out = output(context, as_json=as_json)
    with reported(out):
        require_api("thaw backup")
        settings = read_settings(data_dir)
        with _refusals():
            from app.backup import take

            summary = take(settings, file.absolute(), replace=force)
    _tell(out, "Backed up to", summary)


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `thaw backup`.", exists=True, dir_okay=False)],
    *,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fill an empty data folder from a backup, every byte checked. Start the service on it afterwards.

    Example: thaw restore thaw-monday.tar --data-dir /srv/thaw
    """
    out = output(context, as_json=as_json)
    with reported(out):
        require_api("thaw restore")
        settings = read_settings(data_dir)
        with _refusals():
            from app.backup import restore as restored

            summary = restored(settings, file.absolute())
    _tell(out, "Restored to", summary)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the service's own functions raise, as an error of the command line."""
    from app.backup import ThawError

    try:
        yield
    except ThawError as error:
        raise ThawClientError(error.message) from error
    except OSError as error:
        message = f"That was not possible: {error}"
        raise ThawClientError(message) from error


def _tell(out: Output, what: str, summary: Summary) -> None:
    """Print what was done; lost blobs are no success."""
    if out.as_json:
        out.document(asdict(summary))
    else:
        out.say(f"{what} {summary.path}: the database and {summary.blobs:,} blobs, {summary.bytes:,} bytes.")
    if summary.superseded:
        out.note(
            f"{len(summary.superseded):,} blobs that checkpoints had were superseded while the backup was taken; once "
            "restored, their jobs go on from another checkpoint or from their start, to the same result."
        )
    if summary.lost:
        out.note(f"{len(summary.lost):,} blobs were missing or damaged in the store: {', '.join(summary.lost[:5])} …")
        raise typer.Exit(REFUSED)
