"""The live events of a job, over as many connections as it takes.

    GET …/events, Accept: text/event-stream            -> 1, 2, 3 … cut
    GET …/events, Last-Event-ID: 3                     -> 4, 5, … `completed`: the end
    GET …/events, Last-Event-ID: the last one          -> 204: the end, too

The service keeps every event in its database, so that none is lost between two connections.
"""

import time
from collections.abc import Iterator

import httpx2

from thaw.connection import Connection
from thaw.errors import ConnectionFailedError, RateLimitedError, ServerError, ThawClientError, UnexpectedAnswerError
from thaw.records import Event, read

_SILENCE_SECONDS = 45.0
"""The service sends a comment every 15 s; after three that did not come the connection is given up."""

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0


def follow(connection: Connection, job_id: str, *, after: int, patience_seconds: float) -> Iterator[Event]:
    """Yield events with a number above `after` as they happen, and end after the one of type `completed`.

    Raises:
        ConnectionFailedError: Nothing was heard from the service for `patience_seconds`.
        ApiError: The service says no, such as `NotFoundError` for an unknown job.
    """
    last = after
    patience = _Patience(connection, patience_seconds)
    while True:
        try:
            for event in _connect(connection, job_id, last):
                if event is None:
                    return
                patience.renew()
                if event.number > last:
                    last = event.number
                    yield event
                if event.type == "completed":
                    return
            # The service ended the stream before the last event: it shuts down, and is asked again.
            patience.pause()
        except (ConnectionFailedError, RateLimitedError, ServerError) as error:
            patience.bear(error)


class _Patience:
    """How long a service that is silent or ends its streams is asked again."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._silent_since: float | None = None
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._silent_since = None
        self._next_pause = _FIRST_PAUSE_SECONDS

    def bear(self, error: ThawClientError) -> None:
        """Wait before the next try, or raise the error when there were failures for too long."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since > self._seconds:
            raise error
        self.pause()

    def pause(self) -> None:
        """Wait, longer from time to time."""
        self._connection.sleep(self._next_pause)
        self._next_pause = min(_LONGEST_PAUSE_SECONDS, self._next_pause * 2)


def _connect(connection: Connection, job_id: str, last: int) -> Iterator[Event | None]:
    """The events of one connection; `None`: there will be no more."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last:
        headers["Last-Event-ID"] = str(last)
    path = f"/v1/fine_tuning/jobs/{job_id}/events"
    with connection.open("GET", path, headers=headers, read_timeout=_SILENCE_SECONDS) as response:
        if response.status_code == httpx2.codes.NO_CONTENT:
            yield None
            return
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            message = f"{response.request.url} should send a stream of events. Is a Thaw service there?"
            raise UnexpectedAnswerError(message)
        for sent in httpx2.EventSource(response):
            yield _event(sent)


def _event(sent: httpx2.ServerSentEvent) -> Event:
    try:
        return read(Event, sent.json())
    except ValueError as error:
        message = f"An event should be a JSON object; received {sent.data[:100]!r}."
        raise UnexpectedAnswerError(message) from error
