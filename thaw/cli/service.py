"""`thaw up`, `demo`, `config`, `version`: commands about the service on this machine, and Thaw itself."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import thaw.version
from thaw.cli.output import Output
from thaw.cli.session import AsJson, BadInputError, output, reported
from thaw.location import data_dir

if TYPE_CHECKING:
    from app.settings import Settings

API_PACKAGES = ("fastapi", "celery", "sqlalchemy", "alembic", "pydantic_settings", "psutil")
"""What tells that the extra `api` is installed."""
CLIENT_VARIABLES = (
    ("THAW_URL", "Where the service is; left out: the one that `thaw up` runs on this machine."),
    ("THAW_API_KEY", "The key that opens it."),
    ("THAW_API_KEY_FILE", "A file that holds the key."),
    ("THAW_DATA_DIR", "Where the service on this machine keeps everything; the client finds its URL and key there."),
)
DataDir = Annotated[
    Path | None, typer.Option(help="The folder in which everything is kept. (default: THAW_DATA_DIR)", file_okay=False)
]


def up(
    *,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: THAW_HOST, 127.0.0.1)")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port; 0 picks a free one. (default: THAW_PORT, 8420)")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Run Thaw on this machine: broker, API and workers, until Ctrl-C.

    Commands on this machine then find its URL and key by themselves. Started again with the same folder, it goes
    on with what was there.

    Example: thaw up

    Example: thaw up --data-dir /srv/thaw --port 9000
    """
    with reported(Output(as_json=False)):
        _require_worker("thaw up")
    from app.standalone import main

    raise typer.Exit(main(data_dir=data_dir, host=host, port=port, quiet=quiet))


def demo(
    *,
    data: Annotated[
        Literal["digits", "fashion_mnist"],
        typer.Option(help="digits: from scikit-learn, without network; fashion_mnist: through keras.datasets."),
    ] = "digits",
    data_dir: DataDir = None,
    seeds: Annotated[str | None, typer.Option(help="Several runs: 42,1,2,3,4", show_default=False)] = None,
) -> None:
    """Run the textbook experiment: does a source help on classes that it has never seen?

    Starts the service, trains a source model, fine-tunes it over HTTP, downloads the result, and compares it with
    the same network trained from scratch.

    Example: thaw demo --data fashion_mnist --seeds 42,1,2,3,4
    """
    with reported(Output(as_json=False)):
        numbers = _seeds(seeds)
        _require_worker("thaw demo")
    from thaw.demo import main

    raise typer.Exit(main(data=data, data_dir=data_dir, seeds=numbers))


def config(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Print all settings: their environment variables, values and meanings. Secrets are not shown.

    Example: THAW_PORT=9000 thaw config
    """
    out = output(context, as_json=as_json)
    with reported(out):
        rows = _client_settings() + (_service_settings() if find_spec("pydantic_settings") else [])
        if out.as_json:
            out.document({"settings": rows})
            return
        out.table(
            ("VARIABLE", "VALUE", "MEANING"), [(row["env"], _shown(row["value"]), row["meaning"]) for row in rows]
        )
        out.note("A variable NAME_FILE gives NAME the text of that file.")
        if find_spec("pydantic_settings") is None:
            out.note("These are the client's. For the service's, too: pip install 'thaw[api]'")


def version(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Print the version."""
    out = output(context, as_json=as_json)
    if out.as_json:
        out.document({"version": thaw.version.version()})
    else:
        out.say(f"thaw {thaw.version.version()}")


def _require_worker(command: str) -> None:
    missing = [name for name in ("fastapi", "celery", "tensorflow") if find_spec(name) is None]
    if missing:
        message = (
            f"`{command}` runs the service here, for which this installation lacks {', '.join(missing)}. "
            "Install it with: pip install 'thaw[worker]'"
        )
        raise BadInputError(message)


def require_api(command: str) -> None:
    """Raise `BadInputError` where this installation cannot reach the service's database."""
    missing = [name for name in API_PACKAGES if find_spec(name) is None]
    if missing:
        message = (
            f"`{command}` works on the service's own data, for which this installation lacks {', '.join(missing)}. "
            "Install it with: pip install 'thaw[api]'"
        )
        raise BadInputError(message)


def _seeds(given: str | None) -> list[int] | None:
    try:
        return None if given is None else [int(seed) for seed in given.split(",")]
    except ValueError as error:
        message = f"--seeds takes whole numbers with commas, such as 42,1,2; received {given!r}."
        raise BadInputError(message) from error


def _client_settings() -> list[dict[str, object]]:
    return [
        {"name": name.removeprefix("THAW_").lower(), "env": name, "value": _masked(name), "meaning": meaning}
        for name, meaning in CLIENT_VARIABLES
    ]


def _masked(name: str) -> str | None:
    value = str(data_dir()) if name == "THAW_DATA_DIR" else os.environ.get(name)
    return "********" if value and name == "THAW_API_KEY" else value


def read_settings(data_dir: Path | None = None) -> "Settings":
    """The service's settings here, with another folder if one is given. Raises `BadInputError`."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings() if data_dir is None else Settings(data_dir=data_dir)
    except (ValidationError, OSError, ValueError) as error:
        message = f"A setting cannot be used: {error}"
        raise BadInputError(message) from error


def _service_settings() -> list[dict[str, object]]:
    """What `app.settings` reads, in the order in which it stands there."""
    settings = read_settings()
    shown = {name for name, _ in CLIENT_VARIABLES}
    return [
        {
            "name": name,
            "env": f"THAW_{name.upper()}",
            "value": _jsonable(getattr(settings, name)),
            "meaning": field.description,
        }
        for name, field in type(settings).model_fields.items()
        if f"THAW_{name.upper()}" not in shown
    ]


def _jsonable(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # Pydantic's secrets print themselves masked.
    return str(value)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
