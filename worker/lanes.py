"""Lanes: how many tasks of one kind run at once in a worker that does several kinds.

A hint that finds its lane full does not hold a thread, which another lane could use: it is left to whoever is
done first. A worker that trains and checks files takes uploads while a training runs for days.
"""

import threading
from collections.abc import Callable


class Lane:
    """At most `width` at once; the others wait in line, each once."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._running = 0
        self._waiting: dict[str, Callable[[], None]] = {}
        self._mutex = threading.Lock()

    def run(self, identifier: str, work: Callable[[], None]) -> None:
        """Run `work` now if there is room, and then whatever has come to wait; else leave it and return."""
        with self._mutex:
            if self._running == self._width:
                self._waiting[identifier] = work
                return
            self._running += 1
        following: Callable[[], None] | None = work
        while following:
            try:
                following()
            except BaseException:
                self._leave()
                raise
            following = self._next()

    def _next(self) -> Callable[[], None] | None:
        """What waits, or `None`: then this one has left, at the very moment. Nobody waits for one who does not look."""
        with self._mutex:
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            self._running -= 1
            return None

    def _leave(self) -> None:
        with self._mutex:
            self._running -= 1

    @property
    def full(self) -> bool:
        """Whether what comes now has to wait."""
        return self._running == self._width

    def clear(self) -> None:
        """Forget those that wait: the sweeper rings for them again."""
        with self._mutex:
            self._waiting.clear()
