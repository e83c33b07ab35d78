"""What every command that talks to the service has: the client, where to print, and which exit code an error gets."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from thaw.cli.output import Output
from thaw.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ServiceNotFoundError,
    ThawClientError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from thaw.client import Client

REFUSED, USAGE, UNREACHABLE, UNAUTHORIZED, INTERRUPTED = 1, 2, 3, 4, 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="A model's id: model-…", show_default=False)]
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's id: ds-…", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id: ftjob-…", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to list, the newest first.")]
Target = Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder to put it in.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]
Priority = Literal["low", "normal", "high"]
All = Annotated[bool, typer.Option("--all", help="List all, however many there are.")]


class BadInputError(ThawClientError):
    """What was typed, or a file that it names, cannot be used."""


@dataclass(frozen=True)
class GlobalOptions:
    """Options that stand before the command: `thaw --url … jobs list`."""

    url: str | None = None
    api_key_file: Path | None = None
    as_json: bool = False


class Session(NamedTuple):
    """One command's client and output."""

    client: "Client"
    out: Output


@contextlib.contextmanager
def session(context: typer.Context, *, as_json: bool) -> Iterator[Session]:
    """Connect; an error of ours becomes a sentence and an exit code."""
    options = context.find_object(GlobalOptions) or GlobalOptions()
    out = Output(as_json=as_json or options.as_json)
    with reported(out):
        from thaw.client import Client

        with Client(options.url, api_key_file=options.api_key_file) as client:
            yield Session(client, out)


@contextlib.contextmanager
def reported(out: Output) -> Iterator[None]:
    """Print an error of ours and leave with its exit code."""
    try:
        yield
    except ThawClientError as error:
        out.error(error)
        raise typer.Exit(exit_code(error)) from None


def output(context: typer.Context, *, as_json: bool) -> Output:
    """Where a command prints that needs no service."""
    options = context.find_object(GlobalOptions) or GlobalOptions()
    return Output(as_json=as_json or options.as_json)


def exit_code(error: ThawClientError) -> int:
    """The exit code that goes with an error."""
    if isinstance(error, BadInputError):
        return USAGE
    if isinstance(error, AuthenticationError):
        return UNAUTHORIZED
    unreachable = (ConnectionFailedError, ServiceNotFoundError, UnexpectedAnswerError)
    return UNREACHABLE if isinstance(error, unreachable) else REFUSED
