"""A process is asked to stop when it can hear it, and not before."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.overtime import OF_ATTEMPTS
from worker import watch
from worker.child import Keep
from worker.messages import Message, Ready, Stopped
from worker.watch import Ending, Limits, Watch


class Child:
    """Says that it is ready when it has been listened to so often; ends when it is asked to after that, or killed."""

    pid = 0

    def __init__(self, *, ready_after: float) -> None:
        self.asked: list[Keep] = []
        self.ready = False
        self._left = ready_after
        self._exit_code: int | None = None

    def receive(self, *, timeout: float, read: bool = True) -> list[Message]:  # noqa: ARG002 (as the real one has it)
        if self.asked:
            self._exit_code = 0
            return [Stopped()]
        self._left -= 1
        if self.ready or self._left > 0:
            return []
        self.ready = True
        return [Ready()]

    def ask_to_stop(self, keep: Keep) -> None:
        assert self.ready, "it would not hear it, or die of it"
        self.asked.append(keep)

    def exit_code(self) -> int | None:
        return self._exit_code

    def kill(self) -> None:
        self._exit_code = -9


def watched(child: Child, reason: str, *, at_once: bool = True) -> Ending:
    """With this reason to end it from the start on, or from when it is ready on."""
    told, stopping = SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False), threading.Event()

    def wish() -> None:
        told.cancel_requested, told.pause_requested = reason == "cancel", reason == "pause"
        if reason == "stop":
            stopping.set()

    if at_once:
        wish()
    limits = Limits(seconds=0.0, out_of_time=OF_ATTEMPTS) if reason == "budget" else Limits()
    unused: Any = SimpleNamespace(full=False, error=None)
    lease: Any = told
    process: Any = child
    return Watch(
        process,
        lease=lease,
        relay=unused,
        limits=limits,
        stopping=stopping,
        hurrying=threading.Event(),
        note=lambda _: wish(),
        since=time.monotonic(),
    ).run()


@pytest.mark.parametrize("at_once", [True, False], ids=["while it is young", "when it is ready"])
@pytest.mark.parametrize(
    ("reason", "keep"), [("pause", "checkpoint"), ("stop", "checkpoint"), ("budget", "weights"), ("cancel", "nothing")]
)
def test_it_is_asked_once_as_soon_as_it_can_hear_it(reason: str, keep: Keep, *, at_once: bool) -> None:
    child = Child(ready_after=5)
    ending = watched(child, reason, at_once=at_once)
    assert (ending.reason, ending.outcome, ending.exit_code) == (reason, Stopped(), 0)
    assert child.asked == [keep]


def test_one_that_never_hears_it_is_killed_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE_SECONDS", {"pause": 0.05})
    child = Child(ready_after=float("inf"))
    ending = watched(child, "pause")
    assert (ending.reason, ending.outcome, ending.exit_code, child.asked) == ("pause", None, -9, [])
