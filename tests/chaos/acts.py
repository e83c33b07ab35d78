"""Acts of disorder: drawn from a seed before anything happens, and read back from the log of an earlier run.

kill, stop         SIGKILL; SIGSTOP, and SIGCONT some seconds later
flush, shuffle     the broker forgets everything; it gets all its messages twice, in another order
cut, half-close    connections are reset, or one direction of them ends, in the place of an answer
delay, refuse      every chunk of bytes is late; nobody can connect
fill               a disk is full
unplug             a worker's network link is down: nothing is reset, nothing arrives

Whether an act comes at once or waits until something was kept since the last one is drawn, too: most wait, so that jobs
come to an end.
"""

import itertools
import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tests.chaos.quick import LEASE_SECONDS

Target = Literal["api", "worker", "child", "forkserver", "broker", "postgres", "store", "tree", "disk", "link"]
Action = Literal[
    "kill", "stop", "flush", "shuffle", "cut", "half-close", "delay", "refuse", "fill", "unplug"
]  # fmt: skip
Exposed = Mapping[Action, Collection[Target]]
"""What can be done to what."""

NETWORK: tuple[Action, ...] = ("cut", "half-close", "delay", "refuse")
"""What proxies do."""

OFTEN: Mapping[Action, float] = {
    "kill": 1.0, "stop": 0.25, "flush": 0.06, "shuffle": 0.12,
    "cut": 0.12, "half-close": 0.06, "delay": 0.06, "refuse": 0.06, "fill": 0.08, "unplug": 0.1,
}  # fmt: skip
"""How often each comes for one kill."""

_SERVERS: Mapping[Target, int] = {"postgres": 40, "broker": 25, "store": 35}
WEIGHTS: Mapping[Action, Mapping[Target, int]] = {
    "kill": {"child": 30, "worker": 22, "api": 18, "broker": 12, "postgres": 10, "forkserver": 6, "tree": 5},
    "stop": {"worker": 40, "child": 20, "api": 15, "broker": 10, "postgres": 15, "store": 10},
    "flush": {"broker": 1},
    "shuffle": {"broker": 1},
    **dict.fromkeys(NETWORK, _SERVERS),
    "fill": {"disk": 1},
    "unplug": {"link": 1},
}

COSTLY = frozenset({"child", "worker", "forkserver", "postgres", "tree", "disk", "link"})
"""These may cost a job an attempt."""
_LASTING = frozenset({"worker", "postgres", "store", "link", "disk"})
"""These may be away for longer than a lease."""
_PATIENT = 0.8


@dataclass(frozen=True)
class Act:
    """One disturbance."""

    number: int
    action: Action
    target: Target
    pick: int
    """Which of several."""
    after_seconds: float
    """Since the act before."""
    patient: bool
    """Whether it waits until something was kept, or has ended, since the last act that was costly."""
    seconds: float = 0.0
    """Of what lasts; of a delay, how late each chunk is."""


def draw(rng: random.Random, exposed: Exposed, *, pace_seconds: float) -> Iterator[Act]:
    """Acts without end."""
    possible = {
        action: {target: weight for target, weight in WEIGHTS[action].items() if target in exposed[action]}
        for action in OFTEN
    }
    actions = [action for action in OFTEN if possible[action]]
    for number in itertools.count(1):
        action = rng.choices(actions, [OFTEN[each] for each in actions])[0]
        targets = possible[action]
        target = rng.choices(list(targets), list(targets.values()))[0]
        long = target in _LASTING and action != "delay" and rng.random() < 0.5
        yield Act(
            number=number,
            action=action,
            target=target,
            pick=rng.randrange(1000),
            after_seconds=round(min(rng.expovariate(1 / pace_seconds), 4 * pace_seconds), 3),
            patient=rng.random() < _PATIENT,
            seconds=round(LEASE_SECONDS + rng.uniform(1, 4) if long else rng.uniform(0.5, 3), 3),
        )


def read_log(path: Path) -> list[Act]:
    """The acts of an earlier run."""
    names = {each.name for each in fields(Act)}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Act(**{name: value for name, value in line.items() if name in names}) for line in lines]
