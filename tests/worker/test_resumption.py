"""What a training process keeps gets to the store while it trains, and back to where the next one goes on."""

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.domain.artifacts import Artifact, Blob
from app.domain.errors import PlatformError, ServiceUnavailableError, StorageFullError
from app.domain.job import Checkpoint
from app.domain.progress import CheckpointWritten, PhaseProgress
from app.domain.worker import Fact, SelfTest
from app.services import history, jobs
from app.services.context import DEFAULT_PROJECT
from app.services.failing import LOST
from app.storage.local import LocalArtifacts
from app.storage.paging import PageQuery
from app.storage.tables import JobRow
from worker.processes import ProcessNotStartedError
from worker.resumption import CheckpointUploads, place

Eventually = Callable[..., float]
PHASE = PhaseProgress(index=1, name="head", epoch=1, epochs=9)

# === Whole attempts ===


def _kept(shop: Any, job_id: str) -> list[Checkpoint]:
    found = history.checkpoints(shop.services, DEFAULT_PROJECT, job_id, PageQuery(limit=100)).items
    return [each for each in found if each.kind == "resume"]


def _went_on_from(shop: Any, job_id: str) -> list[object]:
    told = history.events_since(shop.services, DEFAULT_PROJECT, job_id, after_number=0)
    return [event.data["step"] for event in told if event.type == "resumed"]


@pytest.mark.service
def test_a_job_pauses_with_a_checkpoint_of_its_very_step_and_goes_on_from_there(
    shop: Any, eventually: Eventually
) -> None:
    job_id, thread = shop.start("count-on")
    eventually(lambda: _kept(shop, job_id))
    jobs.request_pause(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)
    job = shop.get(job_id)
    assert (job.status, job.attempt.lease_expires_at, job.resume_fidelity) == ("paused", None, "exact")
    newest = _kept(shop, job_id)[0]
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "paused", "nobody claims it"

    jobs.resume(shop.services, DEFAULT_PROJECT, job_id)
    shop.supervisor.train(job_id)
    job = shop.get(job_id)
    assert (job.status, job.attempt.number) == ("succeeded", 2)
    assert _went_on_from(shop, job_id) == [newest.step]
    assert newest.metrics == {"asked": 1.0}, "not one of those that it keeps by itself"


@pytest.mark.service
def test_a_worker_that_stops_leaves_a_checkpoint_and_another_one_goes_on(shop: Any, eventually: Eventually) -> None:
    job_id, thread = shop.start("count-on")
    eventually(lambda: _kept(shop, job_id))
    shop.supervisor.stopping.set()
    thread.join(30)
    assert shop.get(job_id).status == "queued"
    newest = _kept(shop, job_id)[0]
    assert newest.metrics == {"asked": 1.0}
    shop.supervisor.stopping.clear()
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"
    assert _went_on_from(shop, job_id) == [newest.step]


@pytest.mark.service
def test_worker_after_worker_that_stops_costs_neither_a_step_nor_an_attempt(shop: Any, eventually: Eventually) -> None:
    job_id, kept = shop.submit("count-on-5"), []
    for restart in range(5):
        thread = shop.resume(job_id)
        eventually(lambda: len(_went_on_from(shop, job_id)) == len(kept))
        threading.Event().wait(0.02 * restart)
        shop.supervisor.stopping.set()
        thread.join(30)
        shop.supervisor.stopping.clear()
        kept.append(_kept(shop, job_id)[0].step)
        assert shop.get(job_id).status == "queued"
    shop.supervisor.train(job_id)
    assert (shop.get(job_id).status, shop.get(job_id).attempt.number) == ("succeeded", 6)
    assert _went_on_from(shop, job_id) == kept == sorted(kept)
    with shop.services.db.read() as session:
        assert session.scalars(select(JobRow.lost_attempts).where(JobRow.id == job_id)).one() == 0


@pytest.mark.service
@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.1, 0.3, 0.6])
def test_a_cancel_at_any_moment_is_the_end(shop: Any, seconds: float) -> None:
    job_id = shop.submit("count-on")
    thread = threading.Thread(target=shop.supervisor.train, args=(job_id,))
    thread.start()
    threading.Event().wait(seconds)
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)
    ended = shop.get(job_id)
    assert ended.status == "cancelled"
    shop.supervisor.train(job_id)
    assert shop.get(job_id) == ended, "nothing of it runs later"


@pytest.mark.service
def test_a_cancelled_job_keeps_nothing_more(shop: Any, eventually: Eventually) -> None:
    job_id, thread = shop.start("count-on")
    eventually(lambda: _kept(shop, job_id))
    jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    thread.join(30)
    assert shop.get(job_id).status == "cancelled"
    assert all(each.metrics == {} for each in _kept(shop, job_id))


@pytest.mark.service
def test_a_worker_whose_bits_differ_promises_less(shop: Any) -> None:
    fact = Fact(name="same_bits", kind="determinism", holds=False, measured="digests a and b")
    shop.supervisor.fitness.settle(SelfTest(ran_at=0, seconds=1, device="cpu", versions={}, facts=[fact]))
    job = shop.train("count")
    assert (job.status, job.resume_fidelity) == ("succeeded", "tolerance")


# === To the store ===


class Shelf:
    """A store that lets the test decide when an upload is done."""

    def __init__(self, *, open: bool = True) -> None:  # noqa: A002 (as on a door)
        self.may_go_on = threading.Event()
        self.began = threading.Event()
        self.removed: list[str] = []
        if open:
            self.may_go_on.set()

    def put_file(self, path: Path) -> Blob:
        self.began.set()
        assert self.may_go_on.wait(10)
        return Blob(sha256=path.read_text().ljust(64, "0"), bytes=1)

    def remove(self, sha256: str) -> None:
        self.removed.append(sha256)


def _write(run: Path, number: int) -> CheckpointWritten:
    folder = run / "checkpoints" / f"resume-{number}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"{number}")
    name = folder.relative_to(run).as_posix()
    return CheckpointWritten(
        phase=PHASE, number=number, step=number, metrics={}, folder=name, files=["weights"], fidelity="exact"
    )


class Book:
    def __init__(self, *, takes: bool = True) -> None:
        self.told: list[tuple[int, Mapping[str, Artifact]]] = []
        self.errors: list[Exception] = []
        self.takes = takes

    def tell(self, told: CheckpointWritten, files: Mapping[str, Artifact]) -> bool:
        self.told.append((told.number, files))
        return self.takes


def _uploads(run: Path, shelf: Any, book: Book) -> CheckpointUploads:
    return CheckpointUploads(run, shelf, book.tell, book.errors.append)


def test_where_no_thread_starts_the_attempt_is_lost_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        reason = "can't start new thread"
        raise RuntimeError(reason)

    run = tmp_path / "run"
    uploads = _uploads(run, Shelf(open=True), Book())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ProcessNotStartedError, match="can't start new thread") as caught:
        uploads.offer(_write(run, 1))
    assert caught.value.failure().code in LOST


def test_of_several_that_wait_the_newest_is_uploaded(tmp_path: Path) -> None:
    run, shelf, book = tmp_path / "run", Shelf(open=False), Book()
    uploads = _uploads(run, shelf, book)
    for number in (1, 2, 3, 4):
        uploads.offer(_write(run, number))
        assert shelf.began.wait(10)  # the first is on its way while the others come
    shelf.may_go_on.set()
    assert uploads.finish(seconds=10)
    artifact = Artifact(name="weights", sha256="4".ljust(64, "0"), bytes=1)
    assert [number for number, _ in book.told] == [1, 4]
    assert book.told[1][1] == {"checkpoints/resume-4/weights": artifact}
    assert list((tmp_path / "run-uploading").iterdir()) == []


def test_one_that_the_process_deletes_meanwhile_is_uploaded_all_the_same(tmp_path: Path) -> None:
    run, shelf, book = tmp_path / "run", Shelf(open=False), Book()
    uploads = _uploads(run, shelf, book)
    uploads.offer(_write(run, 1))
    shutil.rmtree(run / "checkpoints" / "resume-1")
    shelf.may_go_on.set()
    assert uploads.finish(seconds=10)
    assert [number for number, _ in book.told] == [1]


def test_one_that_is_gone_before_anybody_looked_is_superseded(tmp_path: Path) -> None:
    run, book = tmp_path / "run", Book()
    uploads = _uploads(run, Shelf(), book)
    told = _write(run, 1)
    shutil.rmtree(run / "checkpoints" / "resume-1")
    uploads.offer(told)
    uploads.offer(_write(run, 2))
    assert uploads.finish(seconds=10)
    assert ([number for number, _ in book.told], book.errors) == ([2], [])


def test_whoever_cannot_wait_does_not_and_what_nobody_writes_down_is_deleted(
    tmp_path: Path, eventually: Eventually
) -> None:
    run, shelf, book = tmp_path / "run", Shelf(open=False), Book(takes=False)
    uploads = _uploads(run, shelf, book)
    uploads.offer(_write(run, 1))
    assert shelf.began.wait(10)
    assert not uploads.finish(seconds=0)
    shelf.may_go_on.set()
    eventually(lambda: shelf.removed == ["1".ljust(64, "0")])


def test_a_store_without_room_is_told_of_once(tmp_path: Path) -> None:
    class Full(Shelf):
        def put_file(self, path: Path) -> Blob:
            message = f"No room for {path.name}."
            raise StorageFullError(message)

    book = Book()
    uploads = _uploads(tmp_path / "run", Full(), book)
    uploads.offer(_write(tmp_path / "run", 1))
    assert uploads.finish(seconds=10)
    assert [type(error) for error in book.errors] == [StorageFullError]


@pytest.mark.parametrize("how", ["file", "folder"])
def test_only_plain_files_of_the_attempt_itself_are_taken(how: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").write_text("a")
    told = _write(tmp_path / "run", 1)
    folder = tmp_path / "run" / told.folder
    if how == "file":
        (folder / "weights").unlink()
        (folder / "weights").symlink_to(tmp_path / "elsewhere" / "weights")
    else:
        shutil.rmtree(folder)
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlatformError):
        _uploads(tmp_path / "run", Shelf(), Book()).offer(told)


# === And back ===


def _stored(
    store: LocalArtifacts, number: int, val_loss: float | None = None, phase: PhaseProgress = PHASE
) -> Checkpoint:
    with store.writer(max_bytes=100) as writer:
        writer.write(f"weights of {number}".encode())
        blob = writer.commit()
    return Checkpoint(
        id=f"ckpt-{number}",
        kind="resume",
        job_id="ftjob-1",
        created_at=0,
        attempt=1,
        number=number,
        step=number,
        phase=phase,
        metrics={} if val_loss is None else {"val_loss": val_loss},
        artifact=None,
        files=[Artifact(name="weights", **blob.model_dump())],
    )


def _placed(run: Path) -> dict[str, list[str]]:
    folders = sorted((run / "checkpoints").iterdir())
    return {folder.name: [path.read_text() for path in folder.iterdir()] for folder in folders}


def test_the_newest_is_placed_where_the_engine_looks(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    place([_stored(store, 9), _stored(store, 8)], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000002": ["weights of 9"]}


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_for_one_that_the_store_has_lost_the_one_before_is_placed_and_the_engine_is_told(
    how: str, tmp_path: Path
) -> None:
    store = LocalArtifacts(tmp_path / "store")
    newest, before = _stored(store, 9), _stored(store, 8)
    path = store.path_of(newest.files[0].sha256)
    path.unlink()
    if how == "damaged":
        path.write_text("something else")
    place([newest, before], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000001": ["weights of 8"], "resume-000002": []}


@pytest.mark.parametrize(
    "manifest", ["{", "[]", "{}", '{"files": {"weights": {"sha256": "0"}}}', '{"files": {"weights": 1}}']
)
def test_one_that_was_damaged_before_it_was_stored_gives_way_to_the_one_before(manifest: str, tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    newest, before = _stored(store, 9), _stored(store, 8)
    with store.writer(max_bytes=100) as writer:
        writer.write(manifest.encode())
        listed = Artifact(name="manifest.json", **writer.commit().model_dump())
    place([newest.model_copy(update={"files": [*newest.files, listed]}), before], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000001": ["weights of 8"], "resume-000002": []}


@pytest.mark.parametrize("newest", [0.5, None])
def test_the_best_one_of_the_phase_is_placed_below_the_newest(newest: float | None, tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    place([_stored(store, 9, newest), _stored(store, 8, 0.4), _stored(store, 5, 0.3)], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000001": ["weights of 5"], "resume-000003": ["weights of 9"]}


def test_nothing_else_is_fetched_where_the_newest_is_the_best_of_its_phase(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    before = PHASE.model_copy(update={"index": 0})
    place([_stored(store, 9, 0.3), _stored(store, 8, 0.4), _stored(store, 5, 0.1, before)], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000003": ["weights of 9"]}


def test_a_best_one_that_is_damaged_gives_way_to_the_next_best_and_the_newest_is_used(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    best = _stored(store, 5, 0.3)
    path = store.path_of(best.files[0].sha256)
    path.unlink()
    path.write_text("something else")
    place([_stored(store, 9, 0.5), _stored(store, 8, 0.4), best], tmp_path / "run", store)
    assert _placed(tmp_path / "run") == {"resume-000002": ["weights of 8"], "resume-000003": ["weights of 9"]}


def test_a_store_that_goes_away_before_the_best_one_is_fetched_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalArtifacts(tmp_path / "store")
    newest, best = _stored(store, 9, 0.5), _stored(store, 8, 0.4)
    fetch = store.fetch

    def away(sha256: str, *rest: Any, **options: Any) -> None:
        if sha256 == best.files[0].sha256:
            message = "The store does not answer."
            raise ServiceUnavailableError(message)
        fetch(sha256, *rest, **options)

    monkeypatch.setattr(store, "fetch", away)
    with pytest.raises(ServiceUnavailableError):
        place([newest, best], tmp_path / "run", store)


def test_nothing_is_placed_where_there_is_nothing(tmp_path: Path) -> None:
    place([], tmp_path / "run", LocalArtifacts(tmp_path / "store"))
    assert not (tmp_path / "run").exists()
