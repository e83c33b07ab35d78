"""Event streams: a job's events as they happen, over `text/event-stream`.

The database is the only source, so a stream can be left and taken up again on any API process. One watcher asks
it, for all open streams of this process together, which jobs have news; only the streams of those jobs read, and those
that have come equally far read together.
A thousand idle streams cost one small query each half second, and no thread waits for anybody.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import Response

from app.api.schemas.history import EventObject
from app.domain.job import Event, Job
from app.domain.states import TERMINAL
from app.services import history
from app.services.context import Services

log = structlog.get_logger("thaw.api")

HEARTBEAT_SECONDS: Final = 15.0
"""Proxies close connections on which nothing is said for a minute or so."""
READERS: Final = 4
"""Threads that read events, apart from those that answer requests: streams must not starve them."""
LEAVING_SECONDS: Final = 1.0
"""How long the watcher may take to end: it may have asked a database that does not answer."""
HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Result = TypeVar("Result")
Watched = tuple[str, str]
"""A project and a job's id."""


@dataclass(eq=False)
class _Listener:
    """One open stream: the last event that it has sent, and whether there may be more."""

    number: int
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Told:
    """An event as it is sent."""

    number: int
    is_last: bool
    encoded: bytes


class Streams:
    """All open event streams of this process. `running` must be entered before the first one."""

    def __init__(self, services: Services, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._services = services
        self._heartbeat_seconds = heartbeat_seconds
        self._listeners: dict[Watched, set[_Listener]] = defaultdict(set)
        self._readers = CapacityLimiter(READERS)
        self._reads: dict[tuple[Watched, int], asyncio.Task[list[_Told]]] = {}
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def listener_count(self) -> int:
        """How many streams are open."""
        return sum(len(listeners) for listeners in self._listeners.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch for news until the block ends."""
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._stopping.set()
            try:
                await asyncio.wait_for(watcher, LEAVING_SECONDS)
            except TimeoutError:
                log.warning("The database does not answer; the watcher of event streams is left behind.")

    def stop(self) -> None:
        """End all streams soon; from any thread or signal handler. Their clients come back with `Last-Event-ID`."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    def events_of(self, job: Job, project: str, *, after_number: int) -> Response:
        """The stream of a job's events behind `after_number`; 204 if all of them are known already.

        Browsers' EventSource connects again whenever a stream ends, and takes 204 for the end.
        """
        watched = (project, job.id)
        newest = self._newest([watched]).get(watched, 0)
        if job.status in TERMINAL and after_number >= newest:
            return Response(status_code=204)
        return EventSourceResponse(self._stream(watched, min(after_number, newest)), headers=HEADERS)

    async def _stream(self, watched: Watched, after_number: int) -> AsyncIterator[bytes]:
        with self._listening(watched, after_number) as listener:
            while not self._stopping.is_set():
                listener.news.clear()
                told = await self._behind(watched, listener.number)
                for event in told:
                    yield event.encoded
                    listener.number = event.number
                if told and told[-1].is_last:
                    return
                if not told and not await _within(self._heartbeat_seconds, listener.news):
                    yield KEEPALIVE_COMMENT

    @contextlib.contextmanager
    def _listening(self, watched: Watched, after_number: int) -> Iterator[_Listener]:
        listener = _Listener(after_number)
        self._listeners[watched].add(listener)
        try:
            yield listener
        finally:
            self._listeners[watched].discard(listener)
            if not self._listeners[watched]:
                del self._listeners[watched]

    async def _behind(self, watched: Watched, number: int) -> list[_Told]:
        """The events behind this number; whoever asks for the same at the same time waits for one read."""
        asked = (watched, number)
        if asked not in self._reads:
            self._reads[asked] = asyncio.create_task(self._in_thread(lambda: self._read(watched, number)))
            self._reads[asked].add_done_callback(lambda _: self._reads.pop(asked))
        return await asyncio.shield(self._reads[asked])

    def _read(self, watched: Watched, after_number: int) -> list[_Told]:
        project, job_id = watched
        events = history.events_since(self._services, project, job_id, after_number=after_number)
        return [_Told(event.number, event.type == "completed", _encoded(event)) for event in events]

    # === The watcher ===

    async def _watch(self) -> None:
        while not await _within(self._services.settings.event_poll_seconds, self._stopping):
            if self._listeners:
                await self._look()
        for listener in [one for listeners in self._listeners.values() for one in listeners]:
            listener.news.set()

    async def _look(self) -> None:
        watched = list(self._listeners)
        try:
            newest = await self._in_thread(lambda: self._newest(watched))
        except Exception:  # the watcher must outlive a database that is away for a moment
            log.exception("Looking for new events failed; trying again.")
            return
        for job, number in newest.items():
            for listener in self._listeners.get(job, ()):
                if number > listener.number:
                    listener.news.set()

    def _newest(self, watched: Sequence[Watched]) -> Mapping[Watched, int]:
        """The number of the newest event of each watched job, one query for each project."""
        newest: dict[Watched, int] = {}
        for project in {project for project, _ in watched}:
            job_ids = [job_id for owner, job_id in watched if owner == project]
            found = history.newest_numbers(self._services, project, job_ids)
            newest |= {(project, job_id): number for job_id, number in found.items()}
        return newest

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        """What is cancelled leaves its thread behind: it only reads, and may wait for the database for ever."""
        return await to_thread.run_sync(call, limiter=self._readers, abandon_on_cancel=True)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for the event, at most so long; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _encoded(event: Event) -> bytes:
    data = EventObject.of(event).model_dump_json()
    return format_sse_event(data_str=data, event=event.type, id=str(event.number))
