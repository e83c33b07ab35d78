"""Disorder: what is done to a running service, drawn from a seed before anything happens.

Each act is written to a log when it is done; `read_log` makes the same acts of it again. Whether an act comes at once
or waits until something was kept since the last one is drawn, too: most wait, so that jobs come to an end.
"""

import contextlib
import itertools
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, cast

import psutil
import redis

from tests.chaos.evidence import Evidence
from tests.chaos.stacks import LEASE_SECONDS, Stack, Target

Action = Literal["kill", "stop", "flush"]

KILL_WEIGHTS: Mapping[Target, int] = {
    "child": 30, "worker": 22, "api": 18, "broker": 12, "postgres": 10, "forkserver": 6, "tree": 5,
}  # fmt: skip
STOP_WEIGHTS: Mapping[Target, int] = {"worker": 40, "child": 20, "api": 15, "broker": 10, "postgres": 15}
COSTLY = frozenset({"child", "worker", "forkserver", "postgres", "tree"})
"""These may cost a job an attempt."""
STOPS_PER_KILL, FLUSHES_PER_KILL = 0.25, 0.08
_PATIENT = 0.8
_VICTIM_SECONDS = 12.0
"""How long a victim is waited for that is not there."""
_KEPT_SECONDS = 60.0
"""How long an act waits at most for something to be kept."""


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
    """Of a stop."""


def draw(rng: random.Random, targets: Sequence[Target], *, pace_seconds: float) -> Iterator[Act]:
    """Acts without end."""
    actions: list[Action] = ["kill", "stop", "flush"]
    for number in itertools.count(1):
        action = rng.choices(actions, weights=[1, STOPS_PER_KILL, FLUSHES_PER_KILL])[0]
        weights = KILL_WEIGHTS if action == "kill" else STOP_WEIGHTS
        known = [target for target in weights if target in targets]
        target = "broker" if action == "flush" else rng.choices(known, [weights[each] for each in known])[0]
        long = target in {"worker", "postgres"} and rng.random() < 0.5
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


@dataclass
class Disorder:
    """Carries acts out, in a thread of its own, until enough processes were killed."""

    stack: Stack
    evidence: Evidence
    acts: Iterator[Act]
    kills: int
    """How many."""
    log: Path
    killed: dict[str, int] = field(default_factory=dict)
    """How often what was killed."""
    stopped: dict[str, int] = field(default_factory=dict)
    flushed: int = 0
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._costly_at = time.time()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disorder", daemon=True)

    @property
    def done(self) -> float:
        """Which part of the killing is done."""
        return min(1.0, sum(self.killed.values()) / max(1, self.kills))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            for act in self.acts:
                if self.done >= 1 or self.over.wait(act.after_seconds):
                    break
                self._do(act)
        except BaseException as error:  # noqa: BLE001 (the edge of the thread: the run reports it)
            self.error = error
        finally:
            self.over.set()

    def _do(self, act: Act) -> None:
        if act.target in COSTLY and act.patient:
            self._wait(self._something_was_kept, _KEPT_SECONDS)
        if act.action == "flush":
            hit = self._flush()
        else:
            victims = self._victims(act)
            hit = [process.pid for process in victims]
            if victims:
                _kill(victims) if act.action == "kill" else self._stop(victims, act.seconds)
                counts = self.killed if act.action == "kill" else self.stopped
                counts[act.target] = counts.get(act.target, 0) + 1
        if act.target in COSTLY and hit:
            self._costly_at = time.time()
        with self.log.open("a") as file:
            file.write(json.dumps({**asdict(act), "at": round(time.time(), 3), "hit": hit}) + "\n")

    def _victims(self, act: Act) -> list[psutil.Process]:
        """What is hit: of workers that are stopped, all that they have started; of servers, one process."""
        self._wait(lambda: self.stack.find(act.target), _VICTIM_SECONDS)
        found = self.stack.find(act.target)
        if not found or act.target == "tree" or (act.target == "postgres" and act.action == "stop"):
            return found
        # Of PostgreSQL, the first is the one that all others belong to: it goes half of the times.
        index = 0 if act.target == "postgres" and act.pick % 2 else act.pick % len(found)
        chosen = found[index]
        return self.stack.worker_group(chosen) if (act.action, act.target) == ("stop", "worker") else [chosen]

    def _stop(self, victims: Sequence[psutil.Process], seconds: float) -> None:
        _signal(victims, signal.SIGSTOP)
        self.over.wait(seconds)
        _signal(victims, signal.SIGCONT)

    def _flush(self) -> list[int]:
        with contextlib.suppress(redis.RedisError):  # it is away, and what it knew with it
            with self.stack.broker() as broker:
                broker.flushall()
            self.flushed += 1
        return []

    def _something_was_kept(self) -> bool:
        rows = self.evidence.rows(
            "SELECT 1 AS one FROM checkpoints WHERE created_at > ? UNION ALL "
            "SELECT 1 AS one FROM jobs WHERE finished_at > ? LIMIT 1",
            self._costly_at,
            self._costly_at,
        )
        return bool(rows)

    def _wait(self, condition: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline and not self.over.wait(0.1):
            pass


def _kill(victims: Sequence[psutil.Process]) -> None:
    """Who would start something again goes first."""
    _signal(victims, signal.SIGKILL)


def _signal(victims: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.send_signal(cast("int", number))
