"""The commands put together."""

from pathlib import Path
from typing import Annotated

import typer

from thaw.cli import datasets, db, jobs, keys, models, operating, service, workers
from thaw.cli.output import Output
from thaw.cli.session import AsJson, GlobalOptions
from thaw.version import version

HELP = """Fine-tune Keras models: cut a source, put a new head on, freeze and unfreeze on a schedule.

`thaw up` starts the service on this machine; every other command finds it by itself.
"""

EPILOG = (
    "Exit codes: 0 done, 1 the service said no or the job did not succeed, 2 usage, 3 the service cannot be reached, "
    "4 no valid API key, 130 interrupted (the job goes on)."
)

app = typer.Typer(
    name="thaw",
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    # A traceback with the values of variables could show a key.
    pretty_exceptions_enable=False,
)
app.command()(service.up)
app.command()(service.demo)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(workers.app, name="workers")
app.command()(jobs.plan)
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")
app.command()(operating.doctor)
app.command()(operating.backup)
app.command()(operating.restore)
app.command()(service.config)
app.command()(service.version)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (the signature is typer's)
    """Before anything else is looked at."""
    if wanted:
        Output(as_json=False).say(f"thaw {version()}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Option(help="The service. (default: THAW_URL, or the one on this machine)")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file that holds the API key. (default: THAW_API_KEY_FILE)", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Keep what stands before the command."""
    context.obj = GlobalOptions(url=url, api_key_file=api_key_file, as_json=as_json)


def main() -> None:
    """Run the command line; what `thaw` and `python -m thaw` call."""
    app(prog_name="thaw")
