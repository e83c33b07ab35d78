"""What commands print: tables and sentences for people, or JSON for programs.

for people     results on standard output, notes, progress and errors on standard error
`--json`       one JSON document (or one object a line) on standard output, the rest on standard error
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from thaw.cli.text import plain
from thaw.errors import ApiError, ThawClientError, WorkFailedError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDTH_OF_FILES = 240
"""Columns where there is no terminal: wide enough that `grep` finds ids whole."""


class Output:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def document(self, content: object) -> None:
        """The one JSON document."""
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=dict) + "\n")

    def line(self, content: object) -> None:
        """One JSON object of a stream, at once."""
        sys.stdout.write(json.dumps(content, ensure_ascii=False, default=dict) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A result, for people."""
        self.console().print(text, markup=False, highlight=False, soft_wrap=True)

    def wrapped(self, text: "str | Text", *, indent: str = "") -> None:
        """Sentences for people, broken at the terminal's width; every line begins with `indent`."""
        from rich.padding import Padding
        from rich.text import Text

        plain_or_styled = Text(text) if isinstance(text, str) else text
        self.console().print(Padding(plain_or_styled, (0, 0, 0, len(indent)), expand=False))

    def note(self, text: str) -> None:
        """Something beside the result."""
        self.messages().print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()) -> None:
        """A table; `numbers` names the columns that stand to the right."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            # Ids are for copying: never cut, never broken.
            whole = column.endswith("ID")
            table.add_column(column, justify="right" if column in numbers else "left", no_wrap=whole, overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self.console().print(table)

    def facts(self, facts: Mapping[str, object]) -> None:
        """Names and values, one a line; what is `None` is left out."""
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            if value is not None:
                self.say(f"{name:<{width}}  {plain(value)}")

    def error(self, error: ThawClientError) -> None:
        """Say what went wrong."""
        if self.as_json:
            self.line({"error": describe(error)})
        from rich.text import Text

        sentences = "\n".join(plain(line) for line in str(error).splitlines())
        self.messages().print(Text.assemble(("Error: ", "bold red"), sentences), soft_wrap=True)
        if isinstance(error, ApiError) and error.request_id:
            self.messages().print(f"(request {plain(error.request_id)})", style="dim", markup=False, soft_wrap=True)

    def console(self) -> "Console":
        """Standard output."""
        return _console(stderr=False)

    def messages(self) -> "Console":
        """Standard error."""
        return _console(stderr=True)


def describe(error: ThawClientError) -> dict[str, object]:
    """An error as JSON."""
    described: dict[str, object] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ApiError):
        problems = [
            {"pointer": found.pointer, "code": found.code, "message": found.message, "allowed": found.allowed}
            for found in error.problems
        ]
        more = {"status": error.status, "code": error.code, "request_id": error.request_id, "errors": problems}
        described |= {**more, "message": error.message}
    if isinstance(error, WorkFailedError):
        described |= {"code": error.code, "class": error.error_class, "id": error.identifier}
    return described


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_FILES)
