"""Looking jobs up, and cancelling them."""

from typing import Any

import pytest

from app.domain.errors import InvalidRequestError, InvalidStateTransitionError, NotFoundError
from app.services import history, jobs, reports
from app.services.context import Services
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import JobRow


def test_an_unknown_job_and_another_projects_job_are_not_found(world: Any, services: Services) -> None:
    job = world.job()
    for project, identifier in (("default", "ftjob-unknown"), ("another", job.id)):
        for call in (jobs.get, jobs.request_cancel):
            with pytest.raises(NotFoundError):
                call(services, project, identifier)
        for page in (history.events, history.metrics, history.checkpoints):
            with pytest.raises(NotFoundError):
                page(services, project, identifier, PageQuery())
        assert history.events_since(services, project, identifier, after_number=0) == []
    assert jobs.list_page(services, "another", PageQuery()).items == []


def test_the_queue_is_counted_from_the_oldest(world: Any, services: Services) -> None:
    request = world.request()
    waiting = [jobs.submit(services, "default", request) for _ in range(3)]
    assert [world.get(job).queue_position for job in waiting] == [1, 2, 3]
    world.claim(waiting[0])
    assert [world.get(job).queue_position for job in waiting] == [None, 1, 2]


# === Cancel ===


def test_a_queued_job_is_cancelled_at_once(world: Any, services: Services) -> None:
    job = world.job()
    cancelled = jobs.request_cancel(services, "default", job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert cancelled.cancel_requested_at is not None
    assert _types(services, job) == ["status", "completed"]


def test_a_job_that_waits_for_files_is_cancelled_and_stays_so(world: Any, services: Services) -> None:
    job = world.job(model=world.file().id)
    assert jobs.request_cancel(services, "default", job.id).status == "cancelled"
    world.finish_model(job.model_id)
    assert world.get(job).status == "cancelled"


def test_a_running_job_is_asked_once(world: Any, services: Services) -> None:
    claim = world.claim()
    first = jobs.request_cancel(services, "default", claim.identifier)
    assert first.status == "running"
    assert first.cancel_requested_at is not None
    assert jobs.request_cancel(services, "default", claim.identifier) == first
    assert _types(services, claim.job) == ["status", "status", "message"]
    assert reports.cancel_job(services, claim).status == "cancelled"


def test_cancelling_again_is_fine(world: Any, services: Services) -> None:
    job = world.job()
    first = jobs.request_cancel(services, "default", job.id)
    assert jobs.request_cancel(services, "default", job.id) == first
    assert _types(services, job) == ["status", "completed"]


def test_a_finished_job_cannot_be_cancelled(world: Any, services: Services) -> None:
    job = world.succeed(world.claim())
    with pytest.raises(InvalidStateTransitionError, match="nothing left to cancel") as caught:
        jobs.request_cancel(services, "default", job.id)
    assert (caught.value.status, caught.value.allowed_actions) == ("succeeded", ["fork"])


def test_a_job_that_was_about_to_succeed_may_do_so_though_it_is_to_be_cancelled(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_cancel(services, "default", claim.identifier)
    assert world.succeed(claim).status == "succeeded"


# === Lists ===


def test_pages_of_a_list_hold_every_job_once_in_either_order(world: Any, services: Services) -> None:
    request = world.request()
    made = [jobs.submit(services, "default", request).id for _ in range(7)]
    for identifier in made[2:5]:
        world.set(JobRow, identifier, created_at=1000.0)  # made at the same moment: their ids decide
    expected = sorted(made[2:5]) + made[:2] + made[5:]
    for order, wanted in (("asc", expected), ("desc", expected[::-1])):
        assert _walk(services, PageQuery(limit=2, order=order)) == wanted


def _walk(services: Services, query: PageQuery) -> list[str]:
    found: list[str] = []
    while True:
        page = jobs.list_page(services, "default", query)
        found += [job.id for job in page.items]
        assert len(page.items) <= query.limit
        if not page.has_more:
            return found
        query = PageQuery(after=found[-1], limit=query.limit, order=query.order)


def test_an_unknown_after_is_refused(world: Any, services: Services) -> None:
    world.job()
    with pytest.raises(InvalidRequestError) as caught:
        jobs.list_page(services, "default", PageQuery(after="ftjob-unknown"))
    assert caught.value.problems[0].pointer == "/after"


def test_filters_hold_together(world: Any, services: Services) -> None:
    model, dataset = world.model(), world.dataset()
    red = world.job(model=model.id, training_file=dataset.id, metadata={"colour": "red", "size": "9"})
    blue = world.job(model=model.id, metadata={"colour": "blue"})
    other = world.job(training_file=dataset.id)
    jobs.request_cancel(services, "default", blue.id)
    created_at = world.get(red).created_at

    def found(**filters: Any) -> set[str]:
        return {job.id for job in jobs.list_page(services, "default", PageQuery(), **filters).items}

    assert found() == {red.id, blue.id, other.id}
    assert found(status="cancelled") == {blue.id}
    assert found(model=model.id) == {red.id, blue.id}
    assert found(model=model.id, dataset=dataset.id) == {red.id}
    assert found(metadata={"colour": "red"}) == {red.id}
    assert found(metadata={"colour": "red", "size": "9"}) == {red.id}
    assert found(metadata={"colour": "red", "size": "8"}) == set()
    assert found(metadata={"colour": "blue"}, status="queued") == set()
    assert found(created_after=created_at) == {blue.id, other.id}
    assert found(created_after=created_at, metadata={"colour": "red"}) == set()


def test_pages_of_a_list_filtered_by_metadata_go_on(world: Any, services: Services) -> None:
    request = world.request(metadata={"team": "shoes"})
    made = [jobs.submit(services, "default", request).id for _ in range(3)]
    first = jobs.list_page(services, "default", PageQuery(limit=2, order="asc"), metadata={"team": "shoes"})
    assert ([job.id for job in first.items], first.has_more) == (made[:2], True)
    query = PageQuery(after=made[1], limit=2, order="asc")
    rest = jobs.list_page(services, "default", query, metadata={"team": "shoes"})
    assert ([job.id for job in rest.items], rest.has_more) == (made[2:], False)


def test_filters_that_no_database_could_hold_match_nothing(world: Any, services: Services) -> None:
    world.job(metadata={"a": "b"})
    for odd in ("\x00", "\ud800"):
        for filters in ({"model": odd}, {"dataset": odd}, {"metadata": {odd: odd}}):
            assert jobs.list_page(services, "default", PageQuery(), **filters).items == []


def test_created_after_and_the_queue_go_by_the_databases_clock(world: Any, services: Services) -> None:
    job = world.job()
    world.set(JobRow, job.id, created_at=now() + 1000)
    later = world.job()
    assert world.get(job).queue_position == 2
    assert [each.id for each in jobs.list_page(services, "default", PageQuery()).items] == [job.id, later.id]


def _types(services: Services, job: Any) -> list[str]:
    return [event.type for event in history.events_since(services, "default", job.id, after_number=0)]
