"""Lanes hold back what has no room, without holding a thread."""

import threading
from collections.abc import Callable

import pytest

from worker.lanes import Lane


def test_what_has_no_room_runs_when_there_is_some_each_once_and_in_order() -> None:
    lane, done, release = Lane(1), [], threading.Event()

    def wait() -> None:
        release.wait(5)
        done.append("first")

    thread = threading.Thread(target=lane.run, args=("first", wait))
    thread.start()
    while not lane._running:
        pass
    for name in ("second", "third", "second"):
        lane.run(name, lambda name=name: done.append(name))
    assert done == [], "they were left, and this thread came back at once"
    release.set()
    thread.join()
    assert done == ["first", "second", "third"]


def test_as_many_run_at_once_as_it_is_wide(eventually: Callable[..., float]) -> None:
    lane, release, running = Lane(2), threading.Event(), []

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            running.append(name)
            release.wait(5)

        return run

    threads = [threading.Thread(target=lane.run, args=(name, work(name))) for name in "abc"]
    for thread in threads:
        thread.start()
    eventually(lambda: len(running) == 2)
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(running) == ["a", "b", "c"]


class _Interrupted:
    """A mutex: once armed, what another thread would do the moment it is free is done then, before anything else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.then: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        then, self.then = self.then, None
        if then:
            then()


def test_what_comes_just_when_nothing_more_was_found_is_not_left_behind() -> None:
    lane, done, mutex = Lane(1), [], _Interrupted()
    lane._mutex = mutex

    def first() -> None:
        done.append("first")
        mutex.then = lambda: lane.run("late", lambda: done.append("late"))

    lane.run("first", first)
    assert done == ["first", "late"]
    assert not lane.full


def test_an_error_leaves_room() -> None:
    lane, done = Lane(1), []
    with pytest.raises(ZeroDivisionError):
        lane.run("bad", lambda: 1 / 0)
    lane.run("good", lambda: done.append(True))
    assert done == [True]
