"""A job's events as they happen."""

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from app.api import streams
from app.api.streams import Streams
from app.services import history, jobs
from app.storage import compaction

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

SSE = {"Accept": "text/event-stream"}
Event = dict[str, Any]
LISTENERS = 200


def parsed(text: str) -> Iterator[Event]:
    """The events of a whole stream; comments are left out."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            yield {**fields, "data": json.loads(fields["data"])}


@pytest.fixture
def finished(thaw: "Thaw") -> str:
    job = thaw.job()
    claim = thaw.claim(job)
    thaw.run_epochs(claim, 2)
    thaw.succeed(claim)
    return f"/v1/fine_tuning/jobs/{job}/events"


def test_the_stream_of_a_finished_job_is_its_whole_history_and_ends(client: TestClient, finished: str) -> None:
    response = client.get(finished, headers=SSE)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-cache"
    events = list(parsed(response.text))
    listed = client.get(f"{finished}?order=asc&limit=100").json()["data"]
    assert [event["data"] for event in events] == listed
    assert [event["id"] for event in events] == [str(event["number"]) for event in listed]
    assert [event["event"] for event in events] == [event["type"] for event in listed]
    assert events[-1]["event"] == "completed"
    assert events[-1]["data"]["data"]["status"] == "succeeded"


def test_last_event_id_goes_on_behind_that_event(client: TestClient, finished: str) -> None:
    everything = list(parsed(client.get(finished, headers=SSE).text))
    rest = list(parsed(client.get(finished, headers={**SSE, "Last-Event-ID": "3"}).text))
    assert rest == everything[3:]


@pytest.mark.parametrize("ahead", [0, 1000])
def test_a_client_that_knows_all_of_a_finished_job_is_told_to_stay_away(
    client: TestClient, finished: str, ahead: int
) -> None:
    last = len(list(parsed(client.get(finished, headers=SSE).text)))
    response = client.get(finished, headers={**SSE, "Last-Event-ID": str(last + ahead)})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("last", ["-1", "abc", "1.5", "9" * 30])
def test_a_last_event_id_that_is_no_number_is_422(client: TestClient, finished: str, last: str) -> None:
    response = client.get(finished, headers={**SSE, "Last-Event-ID": last})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/last-event-id"


def test_a_stream_goes_on_within_events_that_made_room_and_says_so(
    client: TestClient, thaw: "Thaw", finished: str
) -> None:
    job_id = finished.split("/")[-2]
    everything = list(parsed(client.get(finished, headers=SSE).text))
    (first, last) = [int(event["id"]) for event in everything if event["event"] == "metrics"]
    with thaw.services.db.begin() as session:
        assert compaction.compact(session, "default", job_id, limit=100) == 2
    rest = list(parsed(client.get(finished, headers={**SSE, "Last-Event-ID": str(first)}).text))
    assert (rest[0]["id"], rest[0]["event"]) == (str(last), "compacted")
    assert rest[0]["data"]["data"] == {"first": first, "last": last}
    assert rest[1:] == everything[last:]


def test_the_stream_of_an_unknown_job_is_404(client: TestClient) -> None:
    assert client.get("/v1/fine_tuning/jobs/ftjob-0/events", headers=SSE).status_code == 404


# === While it happens ===


@contextlib.asynccontextmanager
async def opened(
    thaw: "Thaw", job: str, *, after: int = 0, **options: Any
) -> AsyncIterator[AsyncIterator[Event | str]]:
    """An open stream of a job, without the server around it; `str` are comments."""
    async with streaming(thaw, **options) as running:
        yield items(running, thaw, job, after=after)


@contextlib.asynccontextmanager
async def streaming(thaw: "Thaw", **options: Any) -> AsyncIterator[Streams]:
    running = Streams(thaw.services, **options)
    async with running.running():
        yield running


async def items(running: Streams, thaw: "Thaw", job: str, *, after: int = 0) -> AsyncIterator[Event | str]:
    response = running.events_of(jobs.get(thaw.services, "default", job), "default", after_number=after)
    async for chunk in response.body_iterator:  # type: ignore[attr-defined]
        text = chunk.decode()
        yield text.strip() if text.startswith(":") else next(parsed(text))


async def until_completed(source: AsyncIterator[Event | str]) -> list[Event]:
    return [event async for event in source if isinstance(event, dict)]


def test_events_arrive_while_the_job_runs(thaw: "Thaw") -> None:
    job = thaw.job()
    claim = thaw.claim(job)

    async def watch() -> list[str]:
        seen: list[str] = []
        async with asyncio.timeout(20), opened(thaw, job) as events:
            async for event in events:
                assert isinstance(event, dict)
                seen.append(event["event"])
                if seen == ["status", "status"]:  # all that there was when the stream opened
                    await asyncio.to_thread(thaw.run_epochs, claim, 1)
                if event["event"] == "metrics":
                    await asyncio.to_thread(thaw.succeed, claim)
        return seen

    assert asyncio.run(watch()) == ["status", "status", "stage", "metrics", "completed"]


def test_nothing_happening_is_filled_with_comments(thaw: "Thaw") -> None:
    job = thaw.job()

    async def watch() -> list[Event | str]:
        async with asyncio.timeout(20), opened(thaw, job, heartbeat_seconds=0.1) as events:
            return [await anext(events) for _ in range(3)]

    first, *comments = asyncio.run(watch())
    assert isinstance(first, dict)
    assert all(isinstance(comment, str) and comment.startswith(":") for comment in comments)


def test_a_heartbeat_comes_every_15_seconds_unless_told_otherwise() -> None:
    assert streams.HEARTBEAT_SECONDS == 15


def test_stopping_ends_open_streams_at_once(thaw: "Thaw") -> None:
    job = thaw.job()

    async def watch() -> float:
        async with streaming(thaw) as running:
            events = items(running, thaw, job)
            await anext(events)
            asyncio.get_running_loop().call_later(0.05, threading.Thread(target=running.stop).start)
            started = time.monotonic()
            assert await until_completed(events) == []
            return time.monotonic() - started

    assert asyncio.run(watch()) < 5


def test_hundreds_of_listeners_wait_and_hear_without_a_thread_or_a_query_each(
    thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    job = thaw.job()
    claim = thaw.claim(job)
    reads, looks = counted(monkeypatch, "events_since"), counted(monkeypatch, "newest_numbers")

    async def watch() -> tuple[int, int, int, list[list[Event]]]:
        async with asyncio.timeout(60), streaming(thaw) as running:
            heard: list[None] = []
            listeners = [asyncio.create_task(counting(items(running, thaw, job), heard)) for _ in range(LISTENERS)]
            await reached(lambda: len(heard) == 2 * LISTENERS)  # all that has happened so far
            looked = looks()
            await reached(lambda: looks() >= looked + 5)
            threads, settled, looked = threading.active_count(), reads(), looks()
            await reached(lambda: looks() >= looked + 5)
            idle_reads = reads() - settled
            await asyncio.to_thread(thaw.succeed, claim)
            histories = await asyncio.gather(*listeners)
            return threads, idle_reads, reads() - settled, histories

    threads, idle_reads, reads_of_news, histories = asyncio.run(watch())
    assert threads < 60
    assert idle_reads == 0
    assert 0 < reads_of_news < LISTENERS / 10
    assert all(events[-1]["event"] == "completed" for events in histories)
    assert all(events == histories[0] for events in histories)


async def counting(source: AsyncIterator[Event | str], heard: list[None]) -> list[Event]:
    """`until_completed`, with an entry in `heard` for each event."""
    events = []
    async for event in source:
        if isinstance(event, dict):
            heard.append(None)
            events.append(event)
    return events


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], int]:
    """How often a function of `history` was called."""
    calls: list[None] = []
    original = getattr(history, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return original(*arguments, **options)

    monkeypatch.setattr(history, name, counting)
    return lambda: len(calls)


async def reached(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for has no event; the caller has a deadline)
        await asyncio.sleep(0.01)


def test_a_stream_that_is_left_is_forgotten(thaw: "Thaw") -> None:
    job = thaw.job()

    async def watch() -> int:
        async with streaming(thaw) as running:
            response = running.events_of(jobs.get(thaw.services, "default", job), "default", after_number=0)
            body = response.body_iterator  # type: ignore[attr-defined]
            await anext(body)
            assert running.listener_count == 1
            await body.aclose()
            return running.listener_count

    assert asyncio.run(watch()) == 0


def test_the_watcher_outlives_a_database_that_is_away(thaw: "Thaw", monkeypatch: pytest.MonkeyPatch) -> None:
    job = thaw.job()
    claim = thaw.claim(job)
    newest, failures = history.newest_numbers, []

    def flaky(*arguments: Any) -> Any:
        if len(failures) < 3:
            failures.append(None)
            raise ConnectionError
        return newest(*arguments)

    async def watch() -> list[Event]:
        async with asyncio.timeout(20), streaming(thaw) as running:
            events = items(running, thaw, job, after=2)
            task = asyncio.create_task(until_completed(events))
            await reached(lambda: running.listener_count == 1)
            monkeypatch.setattr(history, "newest_numbers", flaky)
            await reached(lambda: len(failures) == 3)
            await asyncio.to_thread(thaw.succeed, claim)
            return await task

    assert [event["event"] for event in asyncio.run(watch())] == ["completed"]


def test_a_database_that_never_answers_does_not_keep_the_streams_from_ending(
    thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    job, asked, answering = thaw.job(), threading.Event(), threading.Event()

    def hang(*_: Any) -> dict[str, int]:
        asked.set()
        assert answering.wait(60)
        return {}

    async def watch() -> None:
        async with asyncio.timeout(20), streaming(thaw) as running:
            events = items(running, thaw, job)
            await anext(events)
            monkeypatch.setattr(history, "newest_numbers", hang)
            await reached(asked.is_set)

    monkeypatch.setattr(streams, "LEAVING_SECONDS", 0.1)
    try:
        asyncio.run(asyncio.wait_for(watch(), 10))
    finally:
        answering.set()


def test_polling_happens_as_often_as_the_setting_says(thaw: "Thaw", monkeypatch: pytest.MonkeyPatch) -> None:
    job = thaw.job()
    looks = counted(monkeypatch, "newest_numbers")
    settings = thaw.services.settings.model_copy(update={"event_poll_seconds": 3600.0})
    thaw.app.state.services = dataclasses.replace(thaw.services, settings=settings)

    async def watch() -> int:
        async with streaming(thaw) as running:
            events = items(running, thaw, job)
            await anext(events)
            before = looks()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(anext(events), 0.3)
            return looks() - before

    assert asyncio.run(watch()) == 0
