"""`thaw keys`: who may use the service, on a machine that has the service's settings."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thaw.cli import listing, text
from thaw.cli.service import DataDir, read_settings, require_api
from thaw.cli.session import All, AsJson, BadInputError, Limit, output, reported
from thaw.errors import ThawClientError
from thaw.records.record import Record, read

if TYPE_CHECKING:
    from app.keys import KeyRecord
    from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="API keys of the service on this machine: one each for whoever is to have a fair share."
)


@dataclass(frozen=True, kw_only=True)
class ApiKey(Record):
    """What is known of a key."""

    id: str
    name: str
    created_at: int


@app.command()
def create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whose it is, or what for: 1 to 64 characters.", show_default=False)
    ],
    *,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it, this once: the service keeps its sha256 alone.

    Valid at once, also while the service runs, for everything that the admin key opens. Workers share themselves out
    evenly between the keys that have jobs waiting.

    Example: thaw keys create alice > alice.key
    """
    out = output(context, as_json=as_json)
    with reported(out), _service(data_dir) as settings:
        from app import keys

        made, token = keys.create(settings, name)
    if out.as_json:
        out.document({**_described(made), "key": token})
    else:
        out.say(token)
    out.note(f"This is {made.id}, named {text.plain(made.name)!r}. Keep it safe: it is shown only once.")


@app.command(name="list")
def list_keys(
    context: typer.Context,
    *,
    data_dir: DataDir = None,
    limit: Limit = 20,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """List the API keys that are valid, the newest first; not the keys themselves, which nobody can tell again.

    Example: thaw keys list
    """
    out = output(context, as_json=as_json)
    with reported(out):
        most = None if everything else limit
        with _service(data_dir) as settings:
            from app import keys

            # One more tells whether there are more.
            found = keys.listed(settings, limit=None if most is None else most + 1)
        shown = (read(ApiKey, _described(key)) for key in found)
        listing.show(out, shown, limit=most, columns=("ID", "NAME", "CREATED"), row=_row)


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's id (key-…) or name.", show_default=False)],
    *,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key, at once, for good. Jobs that came with it go on.

    An admin key is refused: set THAW_API_KEY to another one and start the service.

    Example: thaw keys revoke alice
    """
    out = output(context, as_json=as_json)
    with reported(out), _service(data_dir) as settings:
        from app import keys

        gone = keys.revoke(settings, key)
    if out.as_json:
        out.document({**_described(gone), "revoked": True})
    else:
        out.say(f"Revoked {gone.id}, named {text.plain(gone.name)!r}.")


@contextlib.contextmanager
def _service(data_dir: Path | None) -> Iterator["Settings"]:
    """The service's settings; what its functions raise becomes an error of the command line."""
    require_api("thaw keys")
    from app.keys import InvalidRequestError, ThawError

    settings = read_settings(data_dir)
    try:
        yield settings
    except InvalidRequestError as error:
        raise BadInputError(error.message) from error
    except ThawError as error:
        raise ThawClientError(error.message) from error


def _described(key: "KeyRecord") -> dict[str, object]:
    return {"id": key.id, "object": "api_key", "name": key.name, "created_at": int(key.created_at)}


def _row(key: ApiKey) -> tuple[str, str, str]:
    return key.id, key.name, text.ago(key.created_at)
