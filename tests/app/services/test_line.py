"""The line of queued jobs: who is taken next, where a job stands, and when it may have ended."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import delete

from app.domain.job import Job, JobRequest
from app.domain.worker import WorkerCapabilities
from app.services import claims, jobs, workers
from app.services.context import Services
from app.services.standing import eta
from app.storage import line
from app.storage.database import now
from app.storage.line import Pace
from app.storage.tables import Asset, DatasetRow, JobRow, ModelRow

PRIORITIES = ("low", "normal", "normal", "high")


class Shop:
    """Submits jobs for several keys, and claims whoever is next."""

    def __init__(self, world: Any) -> None:
        self.world, self.services = world, world.services
        self.request: JobRequest = world.request()

    def submit(self, *, key: str = "key-a", priority: str = "normal", **changes: Any) -> str:
        request = self.request.model_copy(update={"priority": priority, **changes})
        return jobs.submit(self.services, "default", request, api_key_id=key).id

    def claim(self, *, rung_for: str = "ftjob-none") -> claims.JobClaim | None:
        return claims.claim_next(self.services, rung_for, worker="w")

    def taken(self) -> list[str]:
        """The ids of all that wait, in the order in which one worker after the other takes them."""
        found = []
        while claim := self.claim():
            found.append(claim.identifier)
        return found

    def place(self, identifier: str) -> int | None:
        return jobs.get(self.services, "default", identifier).queue_position


@pytest.fixture
def shop(world: Any) -> Shop:
    return Shop(world)


# === Who is next ===


def test_of_one_key_the_most_urgent_goes_first_and_then_the_oldest(shop: Shop) -> None:
    low, normal, high, another = (shop.submit(priority=each) for each in ("low", "normal", "high", "normal"))
    assert shop.taken() == [high, normal, another, low]


def test_a_key_with_fewer_running_jobs_goes_first_among_equals(shop: Shop) -> None:
    many = [shop.submit(key="key-a") for _ in range(3)]
    few = [shop.submit(key="key-b") for _ in range(2)]
    assert shop.taken() == [many[0], few[0], many[1], few[1], many[2]]


def test_priority_outweighs_the_fair_share(shop: Shop) -> None:
    mine = [shop.submit(key="key-a", priority="high") for _ in range(2)]
    other = shop.submit(key="key-b")
    assert shop.taken() == [*mine, other]


def test_what_has_ended_no_longer_counts_as_running(shop: Shop) -> None:
    first, second, other = shop.submit(key="key-a"), shop.submit(key="key-a"), shop.submit(key="key-b")
    claim = shop.claim()
    assert claim is not None
    assert claim.identifier == first
    shop.world.succeed(claim)
    assert shop.taken() == [second, other]


def test_a_hint_brings_the_best_job_not_the_one_it_was_for(shop: Shop) -> None:
    normal, high = shop.submit(), shop.submit(priority="high")
    claim = shop.claim(rung_for=normal)
    assert claim is not None
    assert claim.identifier == high
    again = shop.claim(rung_for=high)
    assert again is not None
    assert again.identifier == normal, "the hint for a job that was taken finds another one"
    assert shop.claim(rung_for=high) is None


def test_a_job_that_cannot_be_read_keeps_no_other_from_being_taken(shop: Shop) -> None:
    broken, fine = shop.submit(priority="high"), shop.submit()
    shop.world.set(JobRow, broken, spec={"what": "is this"})
    claim = shop.claim(rung_for=fine)
    assert claim is not None
    assert claim.identifier == fine
    with pytest.raises(ValidationError):
        shop.claim(rung_for=broken)


@pytest.mark.parametrize(("row", "field"), [(ModelRow, "model"), (DatasetRow, "training_file")])
def test_a_job_whose_model_or_dataset_is_gone_fails_and_the_next_one_is_taken(
    shop: Shop, row: type[Asset], field: str
) -> None:
    broken, other = shop.submit(priority="high"), shop.world.job()
    named = getattr(shop.request, field)
    with shop.services.db.begin() as session:
        session.execute(delete(row).where(row.id == named))
    assert shop.taken() == [other.id]
    failed = jobs.get(shop.services, "default", broken)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "unusable_file", field)
    assert f"'{named}', which `{field}` names" in failed.error.message


def test_an_old_hint_on_a_cpu_brings_no_job_that_waits_for_a_gpu(shop: Shop) -> None:
    first, urgent = shop.submit(), shop.submit(priority="high")
    for worker, queue in (("w", "cpu"), ("w-gpu", "gpu")):
        able = WorkerCapabilities(queues=[queue], devices=[queue])
        workers.announce(shop.services, worker=worker, capabilities=able)
    assert shop.claim(rung_for="ftjob-none") is None
    claim = shop.claim(rung_for=first)
    assert claim is not None
    assert claim.identifier == first
    on_gpu = claims.claim_next(shop.services, first, worker="w-gpu")
    assert on_gpu is not None
    assert on_gpu.identifier == urgent


def test_paused_and_running_jobs_and_those_behind_their_deadline_are_passed_over(shop: Shop) -> None:
    paused, late, ready = shop.submit(), shop.submit(), shop.submit()
    jobs.request_pause(shop.services, "default", paused)
    shop.world.set(JobRow, late, deadline_at=now() - 1)
    assert shop.taken() == [ready]


def test_a_job_that_was_to_be_cancelled_is_passed_over_and_cancelled_by_its_own_hint(shop: Shop) -> None:
    doomed = shop.submit(priority="high")
    shop.world.set(JobRow, doomed, cancel_requested_at=1.0)
    ready = shop.submit()
    assert shop.taken() == [ready]
    assert shop.claim(rung_for=doomed) is None
    assert jobs.get(shop.services, "default", doomed).status == "cancelled"


def test_workers_at_once_take_every_job_once(shop: Shop) -> None:
    waiting = [shop.submit(key=f"key-{n % 3}", priority=("low", "high")[n % 2]) for n in range(12)]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda _: shop.claim(), range(16)))
    assert sorted(claim.identifier for claim in got if claim) == sorted(waiting)
    assert [claim for claim in got if claim is None] == [None] * 4


# === Where a job stands ===


@pytest.mark.parametrize("seed", range(2))
def test_places_are_the_order_in_which_jobs_are_taken(shop: Shop, seed: int) -> None:
    """Of jobs of several keys and priorities, submitted in any order, while some run already."""
    chance = random.Random(seed)  # noqa: S311 (a test's)
    for _ in range(5):
        shop.submit(key=chance.choice("abc"))
    for _ in range(4):
        assert shop.claim()
    waiting = [shop.submit(key=chance.choice("aabcd"), priority=chance.choice(PRIORITIES)) for _ in range(14)]
    for twin in waiting[3:6]:
        shop.world.set(JobRow, twin, created_at=1000.0)  # made at the same moment: their ids decide
    places = {job.id: shop.place(job.id) for job in queued(shop)}
    assert len(places) == 15
    assert sorted(places, key=lambda job: places[job] or 0) == shop.taken()
    assert sorted(places.values(), key=lambda place: place or 0) == list(range(1, 16))


def queued(shop: Shop) -> list[Job]:
    from app.storage.paging import PageQuery

    return jobs.list_page(shop.services, "default", PageQuery(limit=100), status="queued").items


def test_a_job_that_does_not_wait_has_no_place(shop: Shop) -> None:
    paused, waiting = shop.submit(), shop.submit()
    jobs.request_pause(shop.services, "default", paused)
    assert (shop.place(paused), shop.place(waiting)) == (None, 1)
    assert all(job.queue_position is None for job in queued(shop))


def test_what_stands_too_far_behind_is_told_no_place(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "COUNTED", 3)
    waiting = [shop.submit() for _ in range(5)]
    urgent = [shop.submit(priority="high") for _ in range(2)]
    assert [shop.place(job) for job in urgent] == [1, 2]
    assert [shop.place(job) for job in waiting] == [3, None, None, None, None]
    monkeypatch.setattr(line, "MAX_KEYS", 1)
    shop.submit(key="key-b")
    assert shop.place(waiting[0]) is None


# === When it may have ended ===


@pytest.mark.parametrize(
    ("place", "usual", "running", "devices", "expected"),
    [
        (1, 60.0, 0, 1, 60.0),  # a device is free
        (1, 60.0, 1, 1, 120.0),  # one job to wait for
        (4, 60.0, 2, 2, 180.0),  # two at a time: the fourth starts after two rounds
        (2, 60.0, 1, 2, 90.0),  # the first takes the free device, half a round until one of two is free
        (None, 60.0, 0, 1, None),
        (1, None, 0, 1, None),
        (1, 60.0, 0, 0, None),
    ],
)
def test_the_rest_follows_from_the_place_the_devices_and_what_jobs_took(
    place: int | None, usual: float | None, running: int, devices: int, expected: float | None
) -> None:
    assert eta(place, Pace(usual_seconds=usual, running=running), devices=devices) == expected


def test_a_queued_job_says_when_it_may_have_ended(shop: Shop, services: Services) -> None:
    for seconds in (10.0, 20.0, 90.0):
        shop.submit()
        claim = shop.claim()
        assert claim is not None
        done = shop.world.succeed(claim)
        # It was paused for three days.
        shop.world.set(JobRow, done.id, started_at=1000.0, finished_at=260_200.0 + seconds, run_seconds=seconds)
    shop.submit()
    assert shop.claim()
    waiting = [shop.submit() for _ in range(2)]
    assert jobs.get(services, "default", waiting[0]).eta_seconds is None, "no worker lives"
    able = WorkerCapabilities(queues=["cpu"], devices=["cpu"])
    workers.announce(services, worker="w1", capabilities=able)
    workers.announce(services, worker="w2", capabilities=WorkerCapabilities(queues=["prepare"], devices=["cpu"]))
    workers.announce(services, worker="w3", capabilities=able.model_copy(update={"refuses_training": "unfit"}))
    assert [jobs.get(services, "default", job).eta_seconds for job in waiting] == [40.0, 60.0]
