"""Progress bars for uploads and downloads, on standard error, where that is a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from thaw.cli.output import Output
from thaw.cli.session import BadInputError
from thaw.cli.text import plain


@contextlib.contextmanager
def bar(out: Output, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar with bytes, rate and remaining time; yields what the client calls with its progress."""
    console = out.messages()
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(escape(plain(label)), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def waiting(out: Output, label: str) -> Iterator[None]:
    """Show that something is waited for."""
    console = out.messages()
    if not console.is_terminal:
        yield
        return
    from rich.markup import escape

    with console.status(escape(plain(label))):
        yield


def refuse_to_replace(target: Path, *, force: bool) -> None:
    """A download must not silently take the place of somebody's file."""
    if target.exists() and not force:
        message = f"{target} is there already. Give another name with -o, or --force to replace it."
        raise BadInputError(message)
