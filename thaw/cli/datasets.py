"""`thaw datasets`: push, list, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thaw.cli import listing, text
from thaw.cli.output import Output
from thaw.cli.session import All, AsJson, DatasetId, Limit, session
from thaw.cli.transfers import bar, waiting

if TYPE_CHECKING:
    from thaw.records import Dataset, Split


app = typer.Typer(no_args_is_help=True, help="Sets of examples, checked once, with their splits.")


@app.command()
def push(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="A zip or tar.gz of class folders, or an npz with x and y (or x_train, y_train, …).",
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it; left out: the file's name.")] = None,
    kind: Annotated[Literal["images", "arrays"] | None, typer.Option(help="Left out: found out.")] = None,
    task: Annotated[
        Literal["binary", "single_label", "multi_label", "regression"] | None,
        typer.Option(help="What there is to learn. Left out: two classes are binary, more single_label."),
    ] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Part of the examples to validate with. [default: 0.15]")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Part of the examples to test with. [default: 0.15]")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Another seed, other splits.")] = None,
    class_name: Annotated[
        list[str] | None, typer.Option(help="Arrays: what label 0, 1, … means; once for each, in order.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the service has validated it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload examples and have them validated and split.

    Example: thaw datasets push shoes.zip --test-fraction 0.2
    """
    with session(context, as_json=as_json) as (client, out):
        with bar(out, file.name) as progress:
            dataset = client.datasets.push(
                file,
                name=name,
                kind=kind,
                task=task,
                validation_fraction=validation_fraction,
                test_fraction=test_fraction,
                split_seed=split_seed,
                class_names=class_name or None,
                wait=False,
                on_progress=progress,
            )
        if wait:
            with waiting(out, f"validating {file.name}"):
                dataset = client.datasets.wait(dataset.id)
        _show(out, dataset)


@app.command("list")
def list_datasets(
    context: typer.Context,
    *,
    status: Annotated[Literal["validating", "ready", "failed"] | None, typer.Option(help="Only those.")] = None,
    limit: Limit = 20,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """List datasets, the newest first.

    Example: thaw datasets list --json
    """
    with session(context, as_json=as_json) as (client, out):
        listing.show(
            out,
            client.datasets.list(status=status),
            limit=None if everything else limit,
            columns=("ID", "NAME", "STATUS", "TASK", "EXAMPLES", "CREATED"),
            row=_row,
            numbers=("EXAMPLES",),
        )


@app.command()
def show(context: typer.Context, dataset: DatasetId, *, as_json: AsJson = False) -> None:
    """Show a dataset: its classes and splits, and what was found out when it was validated.

    Example: thaw datasets show ds-01jd8k2v7e0000000000000000
    """
    with session(context, as_json=as_json) as (client, out):
        _show(out, client.datasets.get(dataset))


def _row(dataset: Dataset) -> tuple[object, ...]:
    splits = dataset.splits or {}
    examples = sum(split.examples for split in splits.values())
    return (
        dataset.id,
        dataset.name,
        dataset.status,
        dataset.task or "-",
        text.number(examples) if splits else "-",
        text.ago(dataset.created_at),
    )


def _examples(dataset: Dataset) -> str | None:
    """Shape and type; for several inputs of each."""
    if dataset.inputs:
        shapes = [(text.plain(each.name), text.shape(each.example_shape), each.dtype) for each in dataset.inputs]
        return ", ".join(f"{name}: {shape} {dtype}" for name, shape, dtype in shapes)
    return f"{text.shape(dataset.example_shape)} {dataset.dtype}" if dataset.example_shape else None


def _show(out: Output, dataset: Dataset) -> None:
    if out.as_json:
        out.document(dataset.raw)
        return
    values = dataset.value_range
    out.facts(
        {
            "id": dataset.id,
            "name": dataset.name,
            "status": dataset.status,
            "created": text.ago(dataset.created_at),
            "error": dataset.error.message if dataset.error else None,
            "kind": dataset.kind,
            "task": dataset.task,
            "examples": _examples(dataset),
            "values": f"{text.measured(values[0])} to {text.measured(values[1])}" if values else None,
            "unreadable": dataset.corrupt_count or None,
            "in two splits": dataset.duplicates_across_splits or None,
        }
    )
    if dataset.splits:
        _split_table(out, dataset.splits, dataset.classes)
    for warning in dataset.warnings:
        out.note(f"Warning: {text.plain(warning)}")
    for example in dataset.corrupt[:10]:
        out.note(f"Unreadable: {text.plain(example.name)}: {text.plain(example.reason)}")


def _split_table(out: Output, splits: Mapping[str, Split], classes: Sequence[str] | None) -> None:
    names = list(splits)
    rows: list[list[object]] = [
        [name, *((split.class_counts or {}).get(name, 0) for split in splits.values())] for name in classes or ()
    ]
    rows.append(["all", *(split.examples for split in splits.values())])
    out.table(("CLASS", *names), rows, numbers=names)
