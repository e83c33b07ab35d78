"""Fixtures for the worker: children that need no TensorFlow, a real Valkey server."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.domain.spec import Phase, ResolvedSpec
from worker.processes import Launcher

ENTRIES = Path(__file__).parent / "entries"


def eventually(condition: Callable[[], object], *, seconds: float = 10) -> float:
    """Wait until something is true; returns after how many seconds it was. Fails if it does not come true."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not true within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., float]:
    return eventually


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Starts children that run `entries/fake_engine.py`, from a forkserver without TensorFlow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ENTRIES)
        # Children import the parent's main module again where it is a file: pytest, here.
        patch.delattr(sys.modules["__main__"], "__file__", raising=False)
        import fake_engine

        launcher = Launcher(entry=fake_engine.entry, preload=["worker.child"])
        launcher.warm()
        yield launcher
        launcher.close()


def spec(behaviour: str) -> ResolvedSpec:
    """A spec that makes the fake engine behave so."""
    return ResolvedSpec(schedule=[Phase(name=behaviour, epochs=1)], seed=1)


@pytest.fixture(name="spec")
def _spec() -> Callable[[str], ResolvedSpec]:
    return spec
