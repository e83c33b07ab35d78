"""Sweeping: dead workers, lost hints, old records; by several sweepers at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from app.domain.dataset import DatasetOptions
from app.domain.errors import ServiceUnavailableError
from app.domain.model import ModelOptions
from app.domain.worker import WorkerCapabilities
from app.services import claims, datasets, history, idempotency, jobs, models, workers
from app.services import sweep as sweeping
from app.services.context import Services
from app.services.idempotency import StoredAnswer
from app.services.sweep import sweep
from app.storage import checkpoints
from app.storage.database import now
from app.storage.tables import CheckpointRow, DatasetRow, IdempotencyRow, JobRow, ModelRow, WorkerRow


def test_nothing_to_do_is_nothing_done(services: Services, bell: Any) -> None:
    result = sweep(services)
    assert (result.taken_back, result.decided, result.rung) == (0, 0, 0)
    assert bell.rings == []


def test_a_job_whose_worker_died_waits_again_and_is_rung_at_once(world: Any, services: Services, bell: Any) -> None:
    claim = world.claim()
    world.expire(JobRow, claim.identifier)
    bell.rings.clear()
    assert sweep(services).taken_back == 1
    job = world.get(claim)
    assert (job.status, job.attempt.lease_expires_at, job.stage) == ("queued", None, None)
    assert bell.rings == [("train", claim.identifier, "cpu")]
    assert world.claim(job).attempt == 2


def test_a_living_worker_is_left_alone(world: Any, services: Services) -> None:
    claim = world.claim()
    assert sweep(services).taken_back == 0
    assert claims.renew(services, claim)


def test_the_third_lost_attempt_fails_the_job(world: Any, services: Services) -> None:
    job = world.job()
    for lost in range(1, 4):
        world.claim(job)
        world.expire(JobRow, job.id)
        sweep(services)
        assert world.get(job).status == ("queued" if lost < 3 else "failed")
    error = world.get(job).error
    assert error is not None
    assert (error.error_class, error.code, error.retryable) == ("platform", "worker_lost", True)
    assert _events(services, job)[-1].type == "completed"


def test_released_attempts_do_not_count_among_the_lost(world: Any, services: Services) -> None:
    job = world.job()
    for _ in range(4):
        claims.release(services, world.claim(job), charge_attempt=False)
    for _ in range(2):
        world.claim(job)
        world.expire(JobRow, job.id)
        sweep(services)
    assert world.get(job).status == "queued"


def test_a_job_to_be_cancelled_whose_worker_died_is_cancelled(world: Any, services: Services) -> None:
    claim = world.claim()
    jobs.request_cancel(services, "default", claim.identifier)
    world.expire(JobRow, claim.identifier)
    sweep(services)
    assert world.get(claim).status == "cancelled"


def test_of_many_sweepers_one_takes_a_job_back(world: Any, services: Services, bell: Any) -> None:
    running = [world.claim() for _ in range(4)]
    for claim in running:
        world.expire(JobRow, claim.identifier)
    bell.rings.clear()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: sweep(services), range(4)))
    assert sum(result.taken_back for result in results) == 4
    assert sorted(ring[1] for ring in bell.rings) == sorted(claim.identifier for claim in running)
    for claim in running:
        assert [event.data["status"] for event in _events(services, claim.job)] == ["queued", "running", "queued"]


def test_of_many_sweepers_one_counts_a_lost_check(world: Any, services: Services) -> None:
    made = [
        models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions()).id
        for _ in range(4)
    ]
    for identifier in made:
        assert claims.claim_model(services, identifier, worker="w")
        world.expire(ModelRow, identifier)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: sweep(services), range(4)))
    assert sum(result.taken_back for result in results) == 4
    with services.db.read() as session:
        assert session.scalars(select(ModelRow.lost_attempts)).all() == [1] * 4


@pytest.mark.parametrize("lost", [1, 3])
def test_a_check_whose_worker_died_waits_again_and_in_the_end_fails(
    world: Any, services: Services, bell: Any, lost: int
) -> None:
    job = world.job(model=world.file().id, training_file=world.file("a.zip").id)
    for _ in range(lost):
        assert claims.claim_model(services, job.model_id, worker="w")
        assert claims.claim_dataset(services, job.dataset_id, worker="w")
        world.expire(ModelRow, job.model_id)
        world.expire(DatasetRow, job.dataset_id)
        bell.rings.clear()
        assert sweep(services).taken_back == 2
    if lost == 1:
        assert set(bell.rings) == {("register", job.model_id, "prepare"), ("validate", job.dataset_id, "prepare")}
        assert world.get(job).status == "validating_files"
        return
    model = models.get(services, "default", job.model_id)
    assert model.error is not None
    assert (model.status, model.error.code) == ("failed", "worker_lost")
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.error_class, failed.error.retryable) == ("failed", "platform", True)


# === Hints ===


def test_a_hint_that_got_nowhere_is_sent_by_the_next_sweep(world: Any, services: Services, bell: Any) -> None:
    request = world.request()
    bell.answers = False
    job = jobs.submit(services, "default", request)
    assert sweep(services).rung == 0
    bell.answers = True
    assert sweep(services).rung == 1
    assert bell.rings[-1] == ("train", job.id, "cpu")
    assert sweep(services).rung == 0


def test_old_hints_are_sent_again_and_fresh_ones_are_not(world: Any, services: Services, bell: Any) -> None:
    job = world.job()
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    file_id = world.file("a.zip").id
    dataset = datasets.create(services, "default", file_id=file_id, name=None, options=DatasetOptions())
    bell.rings.clear()
    assert sweep(services).rung == 0
    for row, identifier in ((JobRow, job.id), (ModelRow, model.id), (DatasetRow, dataset.id)):
        world.set(row, identifier, rung_at=now() - 31)
    assert sweep(services).rung == 3
    assert sorted(bell.rings) == [
        ("register", model.id, "prepare"),
        ("train", job.id, "cpu"),
        ("validate", dataset.id, "prepare"),
    ]
    assert sweep(services).rung == 0


def test_what_is_held_or_done_is_not_rung(world: Any, services: Services, bell: Any) -> None:
    held, done = world.claim(), world.succeed(world.claim())
    for identifier in (held.identifier, done.id):
        world.set(JobRow, identifier, rung_at=now() - 1000)
    bell.rings.clear()
    assert sweep(services).rung == 0


def test_of_many_sweepers_one_rings(world: Any, services: Services, bell: Any) -> None:
    request = world.request()
    waiting = [jobs.submit(services, "default", request).id for _ in range(10)]
    for identifier in waiting:
        world.set(JobRow, identifier, rung_at=0.0)
    bell.rings.clear()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: sweep(services), range(4)))
    assert sorted(ring[1] for ring in bell.rings) == sorted(waiting)


def test_trainings_are_hinted_to_gpus_where_a_live_worker_has_one(world: Any, services: Services, bell: Any) -> None:
    gpu = WorkerCapabilities(queues=["gpu"], devices=["NVIDIA H200"])
    workers.announce(services, worker="w1", capabilities=gpu)
    world.job()
    assert bell.rings[-1][2] == "gpu"
    _age(services, WorkerRow, seen_at=now() - 31)
    world.job()
    assert bell.rings[-1][2] == "cpu"


# === The second net ===


def test_a_job_that_was_left_behind_by_its_files_moves_on(world: Any, services: Services, bell: Any) -> None:
    job = world.job()
    world.set(JobRow, job.id, status="validating_files")
    bell.rings.clear()
    assert sweep(services).decided == 1
    assert world.get(job).status == "queued"
    assert bell.rings == [("train", job.id, "cpu")]


@pytest.mark.parametrize(("row", "field"), [(ModelRow, "model"), (DatasetRow, "training_file")])
def test_a_job_that_waits_for_what_is_gone_fails(world: Any, services: Services, row: Any, field: str) -> None:
    job = world.job(model=world.file().id, training_file=world.file("a.npz").id)
    with services.db.begin() as session:
        session.execute(delete(row))
    assert sweep(services).decided == 1
    failed = world.get(job)
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "unusable_file", field)
    assert f"'{getattr(job, field)}', which `{field}` names" in failed.error.message


# === Several at once, and rows that cannot be swept ===


def test_of_many_sweepers_each_does_what_another_has_not_done(world: Any, services: Services) -> None:
    late = [world.job(deadline_at=9e9) for _ in range(4)]
    for job in late:
        world.set(JobRow, job.id, deadline_at=now() - 1)
    left_behind = [world.job() for _ in range(4)]
    for job in left_behind:
        world.set(JobRow, job.id, status="validating_files")
    ended = []
    for _ in range(4):
        claim = world.claim()
        ended += world.keep(claim, 1, step=10)
        world.succeed(claim)
    for key in range(4):
        idempotency.begin(services, "default", key=f"{key}", fingerprint="f")
    _age(services, IdempotencyRow, created_at=now() - 86_401)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: sweep(services), range(4)))
    assert sum(result.overdue for result in results) == 4
    for job in late:
        assert [event.data["status"] for event in _events(services, job)] == ["queued", "failed"]
    for job in left_behind:
        assert [event.data["status"] for event in _events(services, job)][1:] == ["queued"]
    assert not any(services.store.exists(sha256) for sha256 in ended)
    with services.db.read() as session:
        assert session.scalars(select(CheckpointRow.id)).all() == []
        assert session.scalars(select(IdempotencyRow.key)).all() == []


def test_a_row_that_cannot_be_swept_keeps_no_other_from_it(world: Any, services: Services, bell: Any) -> None:
    broken, lost, waits, late = world.job(), world.claim(), world.job(), world.job(deadline_at=9e9)
    world.set(JobRow, broken.id, status="validating_files", spec={"schedule": "nonsense"}, rung_at=0.0)
    left_behind = world.job()
    world.set(JobRow, left_behind.id, status="validating_files", rung_at=1.0)
    world.expire(JobRow, lost.identifier)
    world.set(JobRow, waits.id, rung_at=now() - 31)
    world.set(JobRow, late.id, deadline_at=now() - 1)
    bell.rings.clear()
    with pytest.raises(ExceptionGroup) as caught:
        sweep(services)
    (trouble,) = caught.value.exceptions
    assert isinstance(trouble, ValidationError)
    assert [world.get(job).status for job in (lost, left_behind, late)] == ["queued", "queued", "failed"]
    assert {ring[1] for ring in bell.rings} == {lost.identifier, left_behind.id, waits.id}


def test_a_database_that_is_away_ends_a_sweep_at_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def away() -> Any:
        asked.append(1)
        statement = "SELECT"
        raise OperationalError(statement, {}, Exception("the server closed the connection"))

    monkeypatch.setattr(services.db, "begin", away)
    with pytest.raises(OperationalError):
        sweep(services)
    assert len(asked) == 1


def test_a_store_that_does_not_answer_is_asked_once_in_a_sweep(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        claim = world.claim()
        world.keep(claim, 1, step=1)
        world.succeed(claim)
    asked = []

    def silent(sha256: str) -> None:
        asked.append(sha256)
        message = "The artifact store does not answer."
        raise ServiceUnavailableError(message)

    with monkeypatch.context() as away:
        away.setattr(services.store, "remove", silent)
        sweep(services)
    assert len(asked) == 1
    with services.db.read() as session:
        assert len(checkpoints.left_over(session, limit=10)) == 2
    sweep(services)
    with services.db.read() as session:
        assert checkpoints.left_over(session, limit=10) == []


def test_on_a_full_disk_files_are_deleted_until_rows_can_be_written(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = world.claim()
    kept = world.keep(claim, 1, step=1)
    world.succeed(claim)
    begin = services.db.begin

    def full_until_they_are_gone() -> Any:
        if any(services.store.exists(sha256) for sha256 in kept):
            statement = "UPDATE"
            raise OperationalError(statement, {}, Exception("database or disk is full"))
        return begin()

    monkeypatch.setattr(services.db, "begin", full_until_they_are_gone)
    with pytest.raises(ExceptionGroup) as caught:
        sweep(services)
    (trouble,) = caught.value.exceptions
    assert "disk is full" in str(trouble)
    with services.db.read() as session:
        assert checkpoints.left_over(session, limit=10) == []


def test_deleting_takes_no_sweep_longer_than_a_worker_may_be_silent(
    world: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        claim = world.claim()
        world.keep(claim, 1, step=1)
        world.succeed(claim)
    clock = [0.0]
    removed: list[str] = []

    def slow(sha256: str) -> None:
        clock[0] += sweeping.DELETING_SECONDS
        removed.append(sha256)

    monkeypatch.setattr(sweeping, "monotonic", lambda: clock[0])
    monkeypatch.setattr(services.store, "remove", slow)
    for left in (2, 1, 0):
        sweep(services)
        with services.db.read() as session:
            assert len(checkpoints.left_over(session, limit=10)) == left, "one, however slow the store is"
    assert len(removed) == len(set(removed))


def test_old_keys_are_forgotten_a_few_at_a_time(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "FORGOTTEN_KEYS", 2)
    for key in range(3):
        idempotency.begin(services, "default", key=f"{key}", fingerprint="f")
    _age(services, IdempotencyRow, created_at=now() - 86_401)
    for left in (1, 0):
        sweep(services)
        with services.db.read() as session:
            assert len(session.scalars(select(IdempotencyRow.key)).all()) == left


# === Old records ===


def test_old_records_are_forgotten(services: Services) -> None:
    for key in ("old", "new"):
        idempotency.begin(services, "default", key=key, fingerprint="f")
        idempotency.once(idempotency.joined(services), "default", key=key, make=lambda: StoredAnswer(201, {}, "{}"))
    workers.announce(services, worker="w1", capabilities=WorkerCapabilities(queues=["cpu"], devices=["cpu"]))
    _age(services, IdempotencyRow, created_at=now() - 86_401, where=IdempotencyRow.key == "old")
    _age(services, WorkerRow, seen_at=now() - 86_401)
    sweep(services)
    with services.db.read() as session:
        assert session.scalars(select(IdempotencyRow.key)).all() == ["new"]
        assert session.scalars(select(WorkerRow.id)).all() == []


def _age(services: Services, row: Any, *, where: Any = None, **values: Any) -> None:
    from sqlalchemy import true, update

    with services.db.begin() as session:
        session.execute(update(row).where(true() if where is None else where).values(**values))


def _events(services: Services, job: Any) -> Any:
    return history.events_since(services, "default", job.id, after_number=0)
