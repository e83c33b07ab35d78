"""The life of a job as documentation: the diagram and the table of `docs/jobs.md`, made of `states.MOVES`.

`python -m app.domain.lifelines` prints them; a test holds the page to them.
"""

import sys

from app.domain.states import ACTIONS, FIRST, MOVES, STATUSES, TERMINAL

BEGIN, END = "<!-- made by `python -m app.domain.lifelines` -->", "<!-- end -->"


def section() -> str:
    """What stands between the two marks of the page, the marks included."""
    return f"{BEGIN}\n\n{_diagram()}\n\n{_table()}\n\n{_actions()}\n\n{END}"


def _diagram() -> str:
    """Mermaid's: one arrow for each pair of statuses (https://mermaid.js.org/syntax/stateDiagram.html)."""
    pairs = dict.fromkeys((move.old, move.new) for move in MOVES)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {status}" for status in FIRST]
    lines += [f"    {old} --> {new}" for old, new in pairs]
    lines += [f"    {status} --> [*]" for status in STATUSES if status in TERMINAL]
    return "\n".join([*lines, "```"])


def _table() -> str:
    head = ["| from | to | who | when | the row must have |", "| --- | --- | --- | --- | --- |"]
    rows = [f"| `{move.old}` | `{move.new}` | {move.who} | {move.when} | {move.guard} |" for move in MOVES]
    return "\n".join(head + rows)


def _actions() -> str:
    head = ["| status | what may be asked of it |", "| --- | --- |"]
    rows = [f"| `{status}` | {', '.join(f'`{action}`' for action in actions)} |" for status, actions in ACTIONS.items()]
    return "\n".join(head + rows)


if __name__ == "__main__":
    sys.stdout.write(section() + "\n")
