"""Watches one child process to its end, and ends it when there is a reason to.

reason                                what happens to the process
lease lost, too much memory           killed at once
a check that takes too long           killed at once
did nothing for too long              asked where it is, which ends it; killed if it does not say
cancelled                             asked to stop, killed after a grace
paused, worker stops                  asked to stop with a checkpoint, killed after a grace
worker stops, and somebody hurries    killed at once
a job whose time is over              asked to stop with its weights, killed after a grace
it has said how it ended              let go, killed if it does not go

A young process does not hear yet: a signal would be lost, or kill it. It is asked to stop as soon as it says that it is
ready.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from app.domain.errors import Failure
from app.domain.progress import EpochFinished, PhaseFinished, PhaseStarted, StepFinished
from worker import memory
from worker.child import Keep
from worker.lease import Lease
from worker.messages import Alive, Message, Outcome, Ready, Reported
from worker.processes import ChildProcess
from worker.relay import Relay

TICK_SECONDS = 0.1
"""How often reasons to end are looked for; messages and the end itself are noticed at once."""
LINGER_SECONDS = 10.0
"""How long a process may take to go after its last message."""
_MEMORY_SECONDS = 0.25
_LAST_ROUNDS = 3
"""Of reading after its end: far more than fits into a pipe."""

Reason = Literal["lease", "relay", "cancel", "pause", "stop", "budget", "timeout", "memory", "stall"]

GRACE_SECONDS: Mapping[Reason, float] = {"cancel": 2.0, "stop": 4.0, "pause": 60.0, "budget": 60.0, "stall": 2.0}
"""How long a process may take to end its step, and to write its checkpoint. A worker that stops has itself but a few
seconds; nobody waits for a job that pauses, or whose time is over."""
_KEPT: Mapping[Reason, Keep] = {"cancel": "nothing", "stop": "checkpoint", "pause": "checkpoint", "budget": "weights"}


@dataclass(frozen=True)
class Limits:
    """What a process may use; `None` and 0: as much as it wants."""

    seconds: float | None = None
    """Of a job from its claim on, of the check of a file from the start of its process."""
    memory_bytes: int = 0
    stall_seconds: float = 0.0
    """How long it may be silent."""
    out_of_time: Failure | None = None
    """What becomes of a job when `seconds` are over; `None`: it is the check of a file."""


@dataclass(frozen=True)
class Ending:
    """How it ended."""

    outcome: Outcome | None
    """What it said itself; `None` if it ended without a word."""
    exit_code: int
    reason: Reason | None
    """Why we ended it; `None`: we did not."""
    phase: str | None
    """The phase that it reported last."""


class Watch:
    """One child, from its start to its end."""

    def __init__(
        self,
        child: ChildProcess,
        *,
        lease: Lease,
        relay: Relay,
        limits: Limits,
        stopping: threading.Event,
        hurrying: threading.Event,
        note: Callable[[str], None],
        since: float,
    ) -> None:
        """`note` is called with `ready` and `first step` when they come. `since`: when the time of `limits` began."""
        self._child = child
        self._lease = lease
        self._relay = relay
        self._limits = limits
        self._stopping = stopping
        self._hurrying = hurrying
        self._note = note
        self._since = since
        self._heard_at = time.monotonic()
        self._memory_seen_at = 0.0
        self._ready = False
        self._stepped = False
        self._phase: str | None = None
        self._outcome: Outcome | None = None
        self._reason: Reason | None = None
        self._kill_at: float | None = None

    def run(self) -> Ending:
        """Wait for the end. Raises `PlatformError` if the child says what it must not."""
        while (exit_code := self._child.exit_code()) is None:
            self._listen()
            self._end_if_needed()
        self._child.kill()  # what it started must not go on talking in its name
        for _ in range(_LAST_ROUNDS):
            self._take(self._child.receive(timeout=0))
        return Ending(outcome=self._outcome, exit_code=exit_code, reason=self._reason, phase=self._phase)

    def _listen(self) -> None:
        read = not self._relay.full
        found = self._child.receive(timeout=TICK_SECONDS, read=read)
        if found or not read:  # one that nobody listens to may have to wait
            self._heard_at = time.monotonic()
        self._take(found)

    def _take(self, found: list[Message]) -> None:
        for message in found:
            if isinstance(message, Ready):
                self._ready = True
                self._note("ready")
                self._ask_to_end()
            elif isinstance(message, Reported):
                self._report(message)
            elif not isinstance(message, Alive):
                self._outcome = message
                if self._kill_at is None:
                    self._kill_at = time.monotonic() + LINGER_SECONDS

    def _report(self, message: Reported) -> None:
        if not self._stepped and isinstance(message.progress, StepFinished | EpochFinished):
            self._stepped = True
            self._note("first step")
        if isinstance(message.progress, PhaseStarted | StepFinished | EpochFinished | PhaseFinished):
            self._phase = message.progress.phase.name
        self._relay.add(message.progress)

    def _end_if_needed(self) -> None:
        reason = self._why()
        if reason:
            self._reason = reason
            if reason in GRACE_SECONDS:
                self._ask_to_end()
                self._kill_at = time.monotonic() + GRACE_SECONDS[reason]
            else:
                self._kill_at = 0.0
        if self._reason == "budget" and self._kill_at is not None and self._stopping.is_set():
            self._kill_at = min(self._kill_at, time.monotonic() + GRACE_SECONDS["stop"])
        if self._hurrying.is_set() or (self._kill_at is not None and time.monotonic() >= self._kill_at):
            self._child.kill()

    def _ask_to_end(self) -> None:
        if self._reason == "stall":
            self._child.ask_where()
        elif self._ready and self._reason and (keep := _KEPT.get(self._reason)):
            self._child.ask_to_stop(keep)

    def _why(self) -> Reason | None:
        """A reason to end it that was not there before. Losing the lease outweighs all others."""
        if self._lease.lost:
            return None if self._reason == "lease" else "lease"
        if self._lease.cancel_requested and self._reason in {None, "pause", "budget"}:
            return "cancel"
        if self._reason == "pause" and self._stopping.is_set() and not self._outcome:
            return "stop"
        if self._reason:
            return None
        if self._outcome:
            return None
        return self._why_early()

    def _why_early(self) -> Reason | None:
        """A reason to end one that is still at work."""
        if self._relay.error:
            return "relay"
        if self._stopping.is_set():
            return "stop"
        if self._lease.pause_requested:
            return "pause"
        if self._limits.seconds is not None and time.monotonic() - self._since > self._limits.seconds:
            return "timeout" if self._limits.out_of_time is None else "budget"
        if self._limits.stall_seconds and time.monotonic() - self._heard_at > self._limits.stall_seconds:
            return "stall"
        return "memory" if self._too_much_memory() else None

    def _too_much_memory(self) -> bool:
        now = time.monotonic()
        if not self._limits.memory_bytes or now - self._memory_seen_at < _MEMORY_SECONDS:
            return False
        self._memory_seen_at = now
        return memory.process_bytes(self._child.pid) > self._limits.memory_bytes
