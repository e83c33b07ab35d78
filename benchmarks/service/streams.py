"""Very many open event streams, watched by one thread."""

import re
import selectors
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Self

from connection import Connection
from servers import Server

_EVENT = re.compile(rb"^id: (\d+)$", re.MULTILINE)
OPEN_SECONDS = 120.0


class Streams:
    """One stream for each of `job_ids`, which may name a job more than once; a context manager."""

    def __init__(self, server: Server, job_ids: Sequence[str]) -> None:
        self._server = server
        self._job_ids = job_ids
        self._arrived: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._news = threading.Condition()
        self._over = threading.Event()
        self._connections: list[Connection] = []
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        for identifier in self._job_ids:
            connection = self._server.connect()
            self._connections.append(connection)
            path = f"/v1/fine_tuning/jobs/{identifier}/events"
            connection.send([connection.request("GET", path, Accept="text/event-stream")])
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        for connection in self._connections:
            connection.close()

    def arrivals(self, job_id: str, number: int, *, wanted: int, seconds: float = OPEN_SECONDS) -> list[float]:
        """When this event came to each of the job's streams (`perf_counter`), once it came to so many of them."""
        with self._news:
            found = self._arrived[job_id, number]
            if not self._news.wait_for(lambda: len(found) >= wanted, seconds):
                message = f"Event {number} of {job_id} came to {len(found)} of {wanted} streams in {seconds:.0f} s."
                raise TimeoutError(message)
            return list(found)

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        rest: dict[int, bytes] = {}
        for connection, identifier in zip(self._connections, self._job_ids, strict=True):
            selector.register(connection, selectors.EVENT_READ, (connection, identifier))
        while not self._over.is_set():
            ready = selector.select(0.1)
            for key, _ in ready:
                connection, identifier = key.data
                received = rest.get(key.fd, b"") + connection.receive()
                # An event ends with an empty line; what comes behind the last one waits for its end.
                whole, _, rest[key.fd] = received.rpartition(b"\n\n")
                self._note(identifier, whole, time.perf_counter())
        selector.close()

    def _note(self, job_id: str, received: bytes, at: float) -> None:
        numbers = [int(each) for each in _EVENT.findall(received)]
        if numbers:
            with self._news:
                for number in numbers:
                    self._arrived[job_id, number].append(at)
                self._news.notify_all()
