"""`thaw models`: push, catalogue, list, show, pull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thaw.cli import listing, text
from thaw.cli.output import Output
from thaw.cli.session import All, AsJson, BadInputError, Force, Limit, ModelId, Target, session
from thaw.cli.transfers import bar, refuse_to_replace, waiting
from thaw.requests import ENDINGS, NAMED, Rescale

if TYPE_CHECKING:
    from thaw.records import Layer, Model, ModelSummary


app = typer.Typer(no_args_is_help=True, help="Keras models: sources to start from, and results of jobs.")


@app.command()
def push(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A .keras, .h5 or .hdf5 file, or a name of the catalogue.")
    ],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it; left out: the name of the file.")] = None,
    rescale: Annotated[
        Rescale | None,
        typer.Option(
            help="How the model wants its inputs: raw, x / 255, x / 127.5 - 1, or Keras' modes torch and caffe."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A text file with the names of its outputs, one a line.", exists=True, dir_okay=False),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the service has checked it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload a model file and register it, or have a model of the catalogue built.

    Example: thaw models push digits.keras --name digits

    Example: thaw models push 'keras:MobileNet?alpha=0.25&input_size=160'
    """
    with session(context, as_json=as_json) as (client, out):
        names = _lines(labels) if labels else None
        label = source if source.startswith(NAMED) else _file(source).name
        with bar(out, label) as progress:
            model = client.models.push(
                source, name=name, rescale=rescale, labels=names, wait=False, on_progress=progress
            )
        if wait:
            with waiting(out, f"checking {label}"):
                model = client.models.wait(model.id)
        _show(out, model)


@app.command()
def catalogue(
    context: typer.Context,
    word: Annotated[str, typer.Argument(help="Only names with this in them.")] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """List the models that may be named without a file; options go behind the name.

    Example: thaw models catalogue mobile
    """
    with session(context, as_json=as_json) as (client, out):
        found = [model for model in client.models.catalogue() if word.lower() in model.id.lower()]
        if out.as_json:
            out.document({"object": "list", "data": [model.raw for model in found]})
            return
        out.table(
            ("NAME", "PARAMETERS", "SIZE", "OPTIONS"),
            [(model.id, text.number(model.parameters), model.input_size, _options(model.options)) for model in found],
            numbers=("PARAMETERS", "SIZE"),
        )


@app.command("list")
def list_models(
    context: typer.Context,
    *,
    status: Annotated[Literal["validating", "ready", "failed"] | None, typer.Option(help="Only those.")] = None,
    limit: Limit = 20,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """List models, the newest first.

    Example: thaw models list --status ready
    """
    with session(context, as_json=as_json) as (client, out):
        listing.show(
            out,
            client.models.list(status=status),
            limit=None if everything else limit,
            columns=("ID", "NAME", "STATUS", "PARAMETERS", "INPUT", "CREATED"),
            row=_row,
            numbers=("PARAMETERS",),
        )


@app.command()
def show(context: typer.Context, model: ModelId, *, as_json: AsJson = False) -> None:
    """Show a model and its layers: what a job's `cut` and `unfreeze` may name.

    With --json, the layers are the member `layers` of the model.

    Example: thaw models show model-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.models.get(model)
        layers = client.models.layers(model) if found.status == "ready" else ()
        if out.as_json:
            out.document({**found.raw, "layers": [layer.raw for layer in layers]})
            return
        _show(out, found)
        if layers:
            _layer_table(out, layers)


@app.command()
def pull(
    context: typer.Context,
    model: ModelId,
    *,
    wanted: Annotated[
        Literal["keras", "saved_model", "litert", "litert_int8", "onnx"] | None,
        typer.Option("--format", help="Which of the formats that `thaw models show` lists."),
    ] = None,
    output: Target = Path(),
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Download a model: the file as it was pushed, the `model.keras` of a job's result, or one of its exports.

    What came is compared with the service's sha256 before it gets its name.

    Example: thaw models pull model-01jd8k2v7e0000000000000000 --format onnx -o shoes.onnx
    """
    with session(context, as_json=as_json) as (client, out):
        target = output / f"{model}{ENDINGS[wanted or 'keras']}" if output.is_dir() else output
        refuse_to_replace(target, force=force)
        with bar(out, target.name) as progress:
            saved = client.models.download(model, target, format=wanted, on_progress=progress)
        if out.as_json:
            out.document({"id": model, "path": str(saved.absolute()), "bytes": saved.stat().st_size})
        else:
            out.say(str(saved))


def _options(options: Mapping[str, Sequence[str]]) -> str:
    return "  ".join(f"{name}={'|'.join(values)}" for name, values in options.items())


def _file(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        message = f"There is no file {source!r}. Give a file that exists, or a name such as keras:MobileNetV2."
        raise BadInputError(message)
    return path


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        message = f"The labels cannot be read from {file}: {error}."
        raise BadInputError(message) from error


def _row(model: Model) -> tuple[object, ...]:
    summary = model.summary
    parameters = text.number(summary.parameters) if summary else "-"
    wanted = _inputs(summary) if summary else "-"
    return model.id, model.name, model.status, parameters, wanted, text.ago(model.created_at)


def _inputs(summary: ModelSummary) -> str:
    """The shape of the one input; of several also their names."""
    if len(summary.inputs) > 1:
        return ", ".join(f"{text.plain(each.name)}: {text.shape(each.shape)}" for each in summary.inputs)
    return text.shape(summary.input_shape)


def _show(out: Output, model: Model) -> None:
    if out.as_json:
        out.document(model.raw)
        return
    summary = model.summary
    out.facts(
        {
            "id": model.id,
            "name": model.name,
            "status": model.status,
            "created": text.ago(model.created_at),
            "from": model.job or model.file or model.reference,
            "error": model.error.message if model.error else None,
            "input": _inputs(summary) if summary else None,
            "output": text.shape(summary.output_shape) if summary else None,
            "parameters": text.number(summary.parameters) if summary else None,
            "rescale": model.rescale,
            "formats": ", ".join(model.formats) or None,
            "labels": ", ".join(model.labels[:12]) + (", …" if len(model.labels) > 12 else "")
            if model.labels
            else None,
        }
    )
    for upgrade in summary.upgrades if summary else ():
        out.note(f"Changed so that it loads: {text.plain(upgrade)}")


def _layer_table(out: Output, layers: Sequence[Layer]) -> None:
    out.table(
        ("#", "LAYER", "CLASS", "OUTPUT", "PARAMETERS", "CUT"),
        (
            (
                layer.index,
                layer.path,
                layer.class_name,
                text.shape(layer.output_shape),
                text.number(layer.parameters) if layer.has_weights else "-",
                "yes" if layer.legal_cut else f"no: {layer.illegal_because or 'not one output'}",
            )
            for layer in layers
        ),
        numbers=("#", "PARAMETERS"),
    )
