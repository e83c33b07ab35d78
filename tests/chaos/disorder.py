"""Disorder: acts carried out on a running service, and written to a log that they can be read from again."""

import contextlib
import json
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import psutil
import redis

from tests.chaos.acts import COSTLY, Act
from tests.chaos.evidence import Evidence
from tests.chaos.messages import Messages
from tests.chaos.stacks import Stack

_DELAYED = 3
"""How many times as long as one chunk is late are all of them."""
_VICTIM_SECONDS = 12.0
"""How long a victim is waited for that is not there."""
_KEPT_SECONDS = 300.0
"""How long an act waits at most for something to be kept: on a busy machine a worker takes a minute to start."""
_FILL_AGAIN_SECONDS = 0.1


@dataclass
class Disorder:
    """Carries acts out, in a thread of its own, until enough processes were killed."""

    stack: Stack
    evidence: Evidence
    acts: Iterator[Act]
    kills: int
    """How many."""
    log: Path
    done: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How often was done what to what."""
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._costly_at = time.time()
        self._messages = Messages(self.stack.broker)
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disorder", daemon=True)

    @property
    def part(self) -> float:
        """Which part of the killing is done."""
        return min(1.0, self.done["kill"].total() / max(1, self.kills))

    def summary(self) -> Mapping[str, Mapping[str, int]]:
        """For JSON."""
        return {action: dict(counts) for action, counts in self.done.items() if counts}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._messages.start()
            for act in self.acts:
                if self.part >= 1 or self.over.wait(act.after_seconds):
                    break
                self._carry_out(act)
        except BaseException as error:  # noqa: BLE001 (the edge of the thread: the run reports it)
            self.error = error
        finally:
            self.over.set()
            self._messages.stop()

    def _carry_out(self, act: Act) -> None:
        if act.target in COSTLY and act.patient:
            self._wait(self._something_was_kept, _KEPT_SECONDS)
        hit = self._do(act)
        if hit:
            self.done[act.action][act.target] += 1
            if act.target in COSTLY:
                self._costly_at = time.time()
        with self.log.open("a") as file:
            file.write(json.dumps({**asdict(act), "at": round(time.time(), 3), "hit": hit}) + "\n")

    def _do(self, act: Act) -> object:
        """What was hit: ids of processes, numbers of connections or messages; nothing, if nothing was there."""
        match act.action:
            case "kill":
                return _signal(self._victims(act), signal.SIGKILL)
            case "stop":
                return self._stop(self._victims(act), act.seconds)
            case "flush" | "shuffle":
                return self._disturb_broker(act)
            case "fill":
                return self._fill(act)
            case "unplug":
                return self._unplug(act)
            case _:
                return self._disturb_connections(act)

    # === Processes ===

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

    def _stop(self, victims: Sequence[psutil.Process], seconds: float) -> list[int]:
        hit = _signal(victims, signal.SIGSTOP)
        self.over.wait(seconds)
        _signal(victims, signal.SIGCONT)
        return hit

    # === Broker ===

    def _disturb_broker(self, act: Act) -> object:
        chance = random.Random(act.pick)  # noqa: S311 (it is to be repeatable)
        with contextlib.suppress(redis.RedisError), self.stack.broker() as broker:
            return broker.flushall() if act.action == "flush" else self._messages.shuffle(broker, chance)
        return None  # it is away, and what it knew with it

    # === Connections, disks ===

    def _disturb_connections(self, act: Act) -> object:
        proxy = self.stack.proxies[act.target]
        before = proxy.harmed
        match act.action:
            case "cut":
                doing = proxy.harming("reset")
            case "half-close":
                doing = proxy.harming("client" if act.pick % 2 else "server")
            case "delay":
                doing = proxy.delayed(act.seconds)
            case _:
                doing = proxy.refusing()
        with doing:
            self.over.wait(act.seconds * (_DELAYED if act.action == "delay" else 1))
        return proxy.harmed - before if act.action in {"cut", "half-close"} else True

    def _unplug(self, act: Act) -> bool:
        if not self.stack.links:  # the log is that of a run with namespaces
            return False
        with self.stack.links[act.pick % len(self.stack.links)].unplugged():
            self.over.wait(act.seconds)
        return True

    def _fill(self, act: Act) -> bool:
        """Whoever deletes something meanwhile gains nothing."""
        if not self.stack.disks:  # the log is that of a run as root
            return False
        disk = self.stack.disks[act.pick % len(self.stack.disks)]
        until = time.monotonic() + act.seconds
        try:
            while time.monotonic() < until and not self.over.is_set():
                disk.fill()
                self.over.wait(_FILL_AGAIN_SECONDS)
        finally:
            disk.free()
        return True

    # === Patience ===

    def _something_was_kept(self) -> bool:
        """Or nothing can be: no job is on its way, as the next ones are handed out when more has been disturbed."""
        rows = self.evidence.rows(
            "SELECT 1 AS one FROM checkpoints WHERE created_at > ? "
            "UNION ALL SELECT 1 AS one FROM jobs WHERE finished_at > ? "
            "UNION ALL SELECT 1 AS one WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE status IN "
            "('validating_files', 'queued', 'running')) LIMIT 1",
            self._costly_at,
            self._costly_at,
        )
        return bool(rows)

    def _wait(self, condition: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline and not self.over.wait(0.1):
            pass


def _signal(victims: Sequence[psutil.Process], number: signal.Signals) -> list[int]:
    """The ids of those that it reached; who would start something again comes first."""
    reached = []
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.send_signal(cast("int", number))
            reached.append(process.pid)
    return reached
