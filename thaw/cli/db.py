"""`thaw db`: the schema of the service's database, on a machine that has the service's settings."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import typer

from thaw.cli.output import Output
from thaw.cli.service import read_settings, require_api
from thaw.cli.session import REFUSED, AsJson, output, reported
from thaw.errors import ThawClientError

if TYPE_CHECKING:
    from app.schema import SchemaState
    from app.settings import Settings

Answer = TypeVar("Answer")

app = typer.Typer(no_args_is_help=True, help="The service's database: where its schema stands, and its upgrade.")


class UnusableDatabaseError(ThawClientError):
    """The database does not answer, or a newer version of Thaw has upgraded it."""


@app.command()
def current(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Print where the database's schema stands, and what this version of Thaw needs.

    Exit code 1 if they differ. The database is the one that THAW_DATABASE_URL names.

    Example: thaw db current
    """
    out = output(context, as_json=as_json)
    with reported(out):
        require_api("thaw db")
        from app import schema

        state = _answer(schema.current)
        _show(out, state)
    if state.missing:
        raise typer.Exit(REFUSED)


@app.command()
def upgrade(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Bring the database's schema to what this version of Thaw needs.

    On PostgreSQL, API and workers start on a schema of their own version only. So: make a backup, stop processes of
    the older version, upgrade once, start the new ones. An SQLite database is upgraded when the service starts.

    Example: thaw db upgrade
    """
    out = output(context, as_json=as_json)
    with reported(out):
        require_api("thaw db")
        from app import schema

        before, after = _answer(schema.upgrade)
        _show(out, after)
        if before.revision == after.revision:
            out.note("There was nothing to do.")


def _answer(ask: "Callable[[Settings], Answer]") -> Answer:
    from app import schema

    settings = read_settings()
    try:
        return ask(settings)
    except schema.ThawError as error:
        raise UnusableDatabaseError(error.message) from error


def _show(out: Output, state: "SchemaState") -> None:
    if out.as_json:
        out.document(asdict(state))
        return
    out.facts({"database": state.database, "server": state.server, "revision": state.revision or "none"})
    if state.missing:
        out.say(f"Not as it should be: {state.missing}. Run `thaw db upgrade` with the version that is to run.")
    else:
        out.say("That is what this version of Thaw needs.")
