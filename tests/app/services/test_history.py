"""Pages of events, metrics and checkpoints."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.errors import InvalidRequestError
from app.domain.ids import event_id
from app.services import history, jobs, reports
from app.services.context import Services
from app.storage.paging import PageQuery


def test_events_are_paged_in_either_order(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [world.epoch(number) for number in (1, 2, 3)], checkpoints={})
    assert _numbers(services, claim, PageQuery(limit=2)) == ([5, 4], True)
    assert _numbers(services, claim, PageQuery(limit=9, order="asc")) == ([1, 2, 3, 4, 5], False)
    third = event_id(claim.identifier, 3)
    assert _numbers(services, claim, PageQuery(after=third)) == ([2, 1], False)
    assert _numbers(services, claim, PageQuery(after=third, order="asc")) == ([4, 5], False)


def test_streams_go_on_behind_a_number(world: Any, services: Services) -> None:
    claim = world.claim()
    since = history.events_since(services, "default", claim.identifier, after_number=1)
    assert [event.number for event in since] == [2]
    assert history.events_since(services, "default", claim.identifier, after_number=2) == []
    limited = history.events_since(services, "default", claim.identifier, after_number=0, limit=1)
    assert [event.number for event in limited] == [1]


@pytest.mark.parametrize("after", ["nonsense", "ftevent-x-1", "7", "{job}-00000099", "{job}-00000000", "{job}-1"])
def test_an_unknown_event_is_refused(world: Any, services: Services, after: str) -> None:
    job = world.job()
    after = after.format(job=f"ftevent-{job.id.removeprefix('ftjob-')}")
    with pytest.raises(InvalidRequestError, match="`after` names"):
        history.events(services, "default", job.id, PageQuery(after=after))


def test_another_jobs_event_is_refused(world: Any, services: Services) -> None:
    job, other = world.job(), world.job()
    with pytest.raises(InvalidRequestError):
        history.events(services, "default", job.id, PageQuery(after=event_id(other.id, 1)))


def test_metrics_are_paged_by_the_epochs_number(world: Any, services: Services) -> None:
    claim = world.claim()
    reports.progress(services, claim, [world.epoch(number) for number in (1, 2, 3, 4)], checkpoints={})

    def numbers(query: PageQuery) -> tuple[list[int], bool]:
        page = history.metrics(services, "default", claim.identifier, query)
        return [row.number for row in page.items], page.has_more

    assert numbers(PageQuery(limit=3)) == ([4, 3, 2], True)
    assert numbers(PageQuery(after="2", order="asc")) == ([3, 4], False)
    assert numbers(PageQuery(after="2")) == ([1], False)
    for unknown in ("5", "0", "-1", "x", "9" * 50, "²"):
        with pytest.raises(InvalidRequestError):
            numbers(PageQuery(after=unknown))


def test_checkpoints_are_paged_by_their_id(world: Any, services: Services) -> None:
    claim = world.claim()
    for phase, name in ((1, "head"), (2, "all")):
        told = [world.phase_end(phase=phase, name=name)]
        reports.progress(services, claim, told, checkpoints={"c/1.weights": world.artifact()})
    found = history.checkpoints(services, "default", claim.identifier, PageQuery(limit=1))
    assert found.has_more
    (last,) = found.items
    assert last.phase.name == "all"
    (first,) = history.checkpoints(services, "default", claim.identifier, PageQuery(after=last.id)).items
    assert first.phase.name == "head"


def test_numbers_have_no_gaps_when_many_write_at_once(world: Any, services: Services) -> None:
    claim = world.claim()

    def tell(number: int) -> None:
        reports.progress(services, claim, [world.epoch(number)], checkpoints={})
        jobs.request_cancel(services, "default", claim.identifier)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(tell, range(1, 13)))
    numbers, _ = _numbers(services, claim, PageQuery(limit=100, order="asc"))
    assert numbers == list(range(1, 2 + 12 + 1 + 1))  # created, started, epochs, one wish to cancel


def _numbers(services: Services, claim: Any, query: PageQuery) -> tuple[list[int], bool]:
    page = history.events(services, "default", claim.identifier, query)
    return [event.number for event in page.items], page.has_more
