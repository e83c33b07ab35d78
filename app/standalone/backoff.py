"""How long to wait before a program that ended is started again."""


class Backoff:
    """1, 2, 4, … up to `limit` seconds; from the start again after the program was healthy for a while."""

    def __init__(self, *, first: float = 1.0, limit: float = 30.0, healthy_after: float = 60.0) -> None:
        self._first = first
        self._limit = limit
        self._healthy_after = healthy_after
        self._next = first

    def delay(self, *, lived: float) -> float:
        """Seconds to wait now that the program ended after `lived` seconds."""
        if lived >= self._healthy_after:
            self._next = self._first
        delay, self._next = self._next, min(self._next * 2, self._limit)
        return delay
