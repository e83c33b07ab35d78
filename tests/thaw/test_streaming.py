"""A job's events come each once and in order, whatever happens to the connections."""

import itertools

import httpx2
import pytest

from tests.thaw.conftest import Cut, FakeService, frames, problem
from thaw import Client
from thaw.connection import Connection
from thaw.errors import ConnectionFailedError, NotFoundError, UnexpectedAnswerError
from thaw.streaming import follow


@pytest.fixture
def job(service: FakeService) -> str:
    """A job with five events, the last of them `completed`."""
    name = service.add_job(status="succeeded")
    for kind in ("status", "stage", "metrics", "metrics"):
        service.happen(name, kind)
    service.happen(name, "completed", status="succeeded")
    return name


def numbers(client: Client, job: str, *, after: int = 0) -> list[int]:
    return [event.number for event in client.jobs.events(job, after=after)]


def test_events_come_in_order_and_end_with_completed(service: FakeService, client: Client, job: str) -> None:
    events = list(client.jobs.events(job))
    assert [event.number for event in events] == [1, 2, 3, 4, 5]
    assert events[-1].type == "completed"
    assert events[-1].data == {"status": "succeeded"}
    assert len(service.requests) == 1


def test_a_stream_that_breaks_goes_on_behind_the_last_event(service: FakeService, client: Client, job: str) -> None:
    events = service.events[job]
    cut = httpx2.Response(200, stream=Cut(frames(events[:3])[:-9]), headers={"content-type": "text/event-stream"})
    service.answers = [cut, httpx2.ConnectError("refused"), problem(503, "busy", "Later."), None]
    assert numbers(client, job) == [1, 2, 3, 4, 5]
    asked = [request.headers.get("last-event-id") for request in service.requests]
    assert asked[0] is None
    assert len(set(asked[1:])) == 1
    assert asked[-1] in {"2", "3"}


def test_an_event_that_comes_twice_is_told_once(service: FakeService, client: Client, job: str) -> None:
    events = service.events[job]
    ended = httpx2.Response(200, content=frames(events[:3]), headers={"content-type": "text/event-stream"})
    again = httpx2.Response(200, content=frames(events[1:]), headers={"content-type": "text/event-stream"})
    service.answers = [ended, again]
    assert numbers(client, job) == [1, 2, 3, 4, 5]


def test_who_knows_all_events_of_an_ended_job_gets_none_and_is_not_kept_waiting(client: Client, job: str) -> None:
    assert numbers(client, job, after=5) == []


def test_events_may_be_asked_for_from_the_middle(client: Client, job: str) -> None:
    assert numbers(client, job, after=3) == [4, 5]


def test_a_stream_that_the_service_ends_is_asked_for_again_after_growing_pauses(
    service: FakeService, client: Client, job: str, pauses: list[float]
) -> None:
    empty = [httpx2.Response(200, content=b": ping\n\n", headers={"content-type": "text/event-stream"})] * 4
    service.answers = [*empty, None]
    assert numbers(client, job) == [1, 2, 3, 4, 5]
    assert pauses == [0.25, 0.5, 1.0, 2.0]


def test_patience_ends(service: FakeService, connection: Connection, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 7.0)
    monkeypatch.setattr("thaw.streaming.time.monotonic", lambda: next(clock))
    service.answers = [httpx2.ConnectError("refused")] * 20
    with pytest.raises(ConnectionFailedError):
        list(follow(connection, job, after=0, patience_seconds=20))
    assert len(service.requests) == 4


def test_an_unknown_job_is_an_error_at_once(service: FakeService, client: Client) -> None:
    with pytest.raises(NotFoundError):
        list(client.jobs.events("ftjob-absent"))
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, content=b"<html>", headers={"content-type": "text/html"}),
        httpx2.Response(200, content=b"data: {\n\n", headers={"content-type": "text/event-stream"}),
        httpx2.Response(200, content=b"data: {}\n\n", headers={"content-type": "text/event-stream"}),
    ],
)
def test_what_is_no_stream_of_events_is_refused(service: FakeService, client: Client, answer: httpx2.Response) -> None:
    service.answers = [answer]
    with pytest.raises(UnexpectedAnswerError):
        list(client.jobs.events("ftjob-1"))


def test_without_following_the_known_events_are_listed(service: FakeService, client: Client, job: str) -> None:
    found = list(client.jobs.events(job, after=2, follow_on=False))
    assert [event.number for event in found] == [3, 4, 5]
    assert all("text/event-stream" not in request.headers["accept"] for request in service.requests)
