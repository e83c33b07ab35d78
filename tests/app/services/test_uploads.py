"""Uploads in parts: what arrives, what becomes of it, and who ends an upload."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select, update

from app.domain.artifacts import Blob
from app.domain.errors import (
    ConflictError,
    InvalidRequestError,
    InvalidStateTransitionError,
    NotFoundError,
    PlatformError,
    ServiceUnavailableError,
    StorageFullError,
    TooLargeError,
)
from app.domain.upload import MAX_PARTS, Upload, UploadPart
from app.services import completion, uploads
from app.services.completion import complete
from app.services.context import Services
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import FileRow, ProjectRow, UploadPartRow, UploadRow
from tests.app.services.test_fault_points import STEPS, Killed, MortalStore, Reaper

PROJECT = "default"
CONTENT = b"one two three "
PIECES = (b"one ", b"two ", b"three ")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def begin(services: Services, content: bytes = CONTENT, **changes: Any) -> Upload:
    about = {"size": len(content), "filename": "a.zip", "purpose": "fine-tune", "mime_type": "application/zip"}
    return uploads.create(services, PROJECT, **{**about, **changes})


def add(services: Services, upload: Upload, content: bytes, number: int | None = None) -> UploadPart:
    """What the API does with a part's bytes, and then with the part."""
    with services.store.writer(max_bytes=10**6) as writer:
        writer.write(content)
        written = writer.written()
        writer.seal()
        sealed = writer.commit()
    return uploads.add_part(services, PROJECT, upload.id, number=number, content=written, sealed=sealed)


def filled(services: Services, **changes: Any) -> tuple[Upload, list[str]]:
    """An upload of which everything has arrived, and the ids of its parts."""
    upload = begin(services, **changes)
    ids = [add(services, upload, piece).id for piece in PIECES]
    return uploads.get(services, PROJECT, upload.id), ids


def there(services: Services, upload: Upload) -> list[UploadPart]:
    return uploads.parts_page(services, PROJECT, upload.id, PageQuery(order="asc", limit=100)).items


def content_of(services: Services, upload: Upload) -> bytes:
    assert upload.file is not None
    return b"".join(services.store.read(upload.file.blob.sha256))


def files_made(services: Services) -> list[str]:
    with services.db.read() as session:
        return list(session.scalars(select(FileRow.id)))


def overtake(services: Services, *identifiers: str) -> None:
    """Nothing was added to them for too long, as of a second ago."""
    with services.db.begin() as session:
        session.execute(update(UploadRow).where(UploadRow.id.in_(identifiers)).values(expires_at=now() - 1))


# === Parts ===


def test_parts_become_the_file_in_the_order_in_which_they_are_named(services: Services) -> None:
    upload = begin(services)
    ids = [add(services, upload, piece).id for piece in reversed(PIECES)]
    done = complete(services, PROJECT, upload.id, part_ids=ids[::-1], sha256=sha256(CONTENT))
    assert (done.status, content_of(services, done)) == ("completed", CONTENT)
    assert done.file is not None
    assert (done.file.filename, done.file.purpose) == ("a.zip", "fine-tune")
    assert uploads.get(services, PROJECT, upload.id) == done


def test_parts_get_the_next_number_unless_they_bring_one(services: Services) -> None:
    upload = begin(services)
    numbers = [add(services, upload, b"x", number).number for number in (None, 7, 3, None)]
    assert numbers == [1, 7, 3, 8]
    assert [part.number for part in there(services, upload)] == [1, 3, 7, 8]


def test_the_same_bytes_under_the_same_number_are_one_part(services: Services) -> None:
    upload = begin(services)
    first = add(services, upload, b"one ", 1)
    assert add(services, upload, b"one ", 1) == first
    assert there(services, upload) == [first]


def test_other_bytes_under_the_same_number_are_refused(services: Services) -> None:
    upload = begin(services)
    first = add(services, upload, b"one ", 1)
    with pytest.raises(ConflictError, match=r"Part 1 .* other bytes"):
        add(services, upload, b"two ", 1)
    assert there(services, upload) == [first]


def test_parts_that_arrive_at_once_all_get_a_number_of_their_own(services: Services) -> None:
    upload = begin(services, b"x" * 100)
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda _: add(services, upload, b"x").number, range(12)))
    assert sorted(numbers) == list(range(1, 13))


def test_more_than_twice_its_bytes_is_refused(services: Services) -> None:
    upload = begin(services)
    for _ in range(2):
        add(services, upload, CONTENT)
    with pytest.raises(TooLargeError, match="28 bytes together, of a file of 14"):
        add(services, upload, b"x")


def test_more_parts_than_there_may_be_are_refused(services: Services) -> None:
    upload = begin(services)
    add(services, upload, b"x", MAX_PARTS)
    with pytest.raises(TooLargeError, match="10,000 parts"):
        add(services, upload, b"x")
    assert add(services, upload, b"x", 1).number == 1, "there is room below"


def test_a_page_of_parts_goes_on_behind_the_last_one(services: Services) -> None:
    upload, ids = filled(services)
    first = uploads.parts_page(services, PROJECT, upload.id, PageQuery(order="asc", limit=2))
    rest = uploads.parts_page(services, PROJECT, upload.id, PageQuery(order="asc", limit=2, after=first.items[-1].id))
    newest = uploads.parts_page(services, PROJECT, upload.id, PageQuery(limit=2))
    assert ([part.id for part in first.items], first.has_more) == (ids[:2], True)
    assert ([part.id for part in rest.items], rest.has_more) == (ids[2:], False)
    assert [part.id for part in newest.items] == ids[:0:-1]
    with pytest.raises(InvalidRequestError, match="part-0"):
        uploads.parts_page(services, PROJECT, upload.id, PageQuery(after="part-0"))


# === Completing ===


@pytest.mark.parametrize(
    ("named", "pointer", "code"),
    [
        (lambda ids: ids[:2], "/part_ids", "wrong_size"),
        (lambda ids: [*ids[:2], ids[0]], "/part_ids/2", "named_twice"),
        (lambda ids: [ids[0], "part-0", ids[2]], "/part_ids/1", "unknown_id"),
        (lambda _: [], "/part_ids", "wrong_size"),
    ],
    ids=["missing", "twice", "unknown", "none"],
)
def test_wrong_parts_are_refused_and_change_nothing(
    services: Services, named: Callable[[list[str]], list[str]], pointer: str, code: str
) -> None:
    upload, ids = filled(services)
    with pytest.raises(InvalidRequestError) as refused:
        complete(services, PROJECT, upload.id, part_ids=named(ids))
    assert [(problem.pointer, problem.code) for problem in refused.value.problems] == [(pointer, code)]
    assert uploads.get(services, PROJECT, upload.id) == upload
    assert (len(there(services, upload)), files_made(services)) == (3, [])


def test_a_part_of_another_upload_is_unknown(services: Services) -> None:
    _, foreign = filled(services)
    upload, ids = filled(services)
    with pytest.raises(InvalidRequestError, match="has no part"):
        complete(services, PROJECT, upload.id, part_ids=[*ids[:2], foreign[2]])


@pytest.mark.parametrize(
    ("declared", "given", "pointer"),
    [
        ({}, {"md5": hashlib.md5(CONTENT).hexdigest()}, "/md5"),  # noqa: S324 (OpenAI's clients send it)
        ({}, {"sha256": sha256(CONTENT)}, "/sha256"),
        ({"sha256": sha256(CONTENT)}, {}, "/part_ids"),
    ],
    ids=["md5", "sha256", "declared"],
)
def test_parts_in_the_wrong_order_have_another_checksum_and_are_refused(
    services: Services, declared: dict[str, str], given: dict[str, str], pointer: str
) -> None:
    upload, ids = filled(services, **declared)
    with pytest.raises(InvalidRequestError, match="look at their order") as refused:
        complete(services, PROJECT, upload.id, part_ids=ids[::-1], **given)
    assert refused.value.param == pointer
    assert (uploads.get(services, PROJECT, upload.id).status, files_made(services)) == ("pending", [])
    assert len(list(services.store.list_blobs())) == 3, "its parts, and nothing of a file"
    done = complete(services, PROJECT, upload.id, part_ids=ids, **{name: text.upper() if name == "md5" else text
                                                                  for name, text in given.items()})  # fmt: skip
    assert content_of(services, done) == CONTENT


def test_an_empty_file_has_no_parts(services: Services) -> None:
    done = complete(services, PROJECT, begin(services, b"").id, part_ids=[])
    assert content_of(services, done) == b""


def test_parts_that_are_not_named_are_not_in_the_file(services: Services) -> None:
    upload, ids = filled(services)
    add(services, upload, b"one ")  # sent twice, as its answer was lost
    assert content_of(services, complete(services, PROJECT, upload.id, part_ids=ids)) == CONTENT


def test_completing_again_answers_the_same_and_makes_no_other_file(services: Services) -> None:
    upload, ids = filled(services)
    first = complete(services, PROJECT, upload.id, part_ids=ids)
    sweep(services)
    assert complete(services, PROJECT, upload.id, part_ids=ids) == first
    with pytest.raises(InvalidStateTransitionError, match="with other parts") as refused:
        complete(services, PROJECT, upload.id, part_ids=ids[::-1])
    assert refused.value.status == "completed"
    assert len(files_made(services)) == 1


def test_of_many_that_complete_at_once_one_makes_the_file_and_all_answer_with_it(services: Services) -> None:
    upload, ids = filled(services)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: complete(services, PROJECT, upload.id, part_ids=ids), range(4)))
    assert answers == answers[:1] * 4
    assert len(files_made(services)) == 1


def meanwhile(services: Services, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Have something happen after the parts were chosen, and before they are put together."""
    assemble = completion.assemble

    def late(*arguments: Any) -> Blob:
        monkeypatch.setattr(completion, "assemble", assemble)
        happens()
        sweep(services)
        return assemble(*arguments)

    monkeypatch.setattr(completion, "assemble", late)


def test_who_finds_the_parts_gone_because_another_was_faster_answers_with_the_others_file(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, ids = filled(services)
    first: list[Upload] = []
    meanwhile(services, monkeypatch, lambda: first.append(complete(services, PROJECT, upload.id, part_ids=ids)))
    assert complete(services, PROJECT, upload.id, part_ids=ids) == first[0]
    assert len(files_made(services)) == 1


def test_who_completes_what_is_cancelled_meanwhile_makes_no_file(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, ids = filled(services)
    meanwhile(services, monkeypatch, lambda: uploads.cancel(services, PROJECT, upload.id))
    with pytest.raises(InvalidStateTransitionError, match="is cancelled"):
        complete(services, PROJECT, upload.id, part_ids=ids)
    assert files_made(services) == []


def test_a_part_that_was_damaged_in_the_store_is_not_put_into_a_file(services: Services) -> None:
    upload, ids = filled(services)
    path = services.store.path_of(there(services, upload)[1].sealed.sha256)  # type: ignore[attr-defined]  # the local store
    path.chmod(0o640)
    path.write_bytes(b"TWO " + path.read_bytes()[4:])
    with pytest.raises(PlatformError, match=f"{ids[1]}.* damaged"):
        complete(services, PROJECT, upload.id, part_ids=ids)
    again = add(services, upload, b"two ")
    done = complete(services, PROJECT, upload.id, part_ids=[ids[0], again.id, ids[2]])
    assert content_of(services, done) == CONTENT


# === Ends ===


def test_to_a_cancelled_upload_nothing_is_added(services: Services) -> None:
    upload, ids = filled(services)
    for _ in range(2):
        assert uploads.cancel(services, PROJECT, upload.id).status == "cancelled"
    for attempt in (
        lambda: uploads.get_open(services, PROJECT, upload.id),
        lambda: add(services, upload, b"x"),
        lambda: complete(services, PROJECT, upload.id, part_ids=ids),
    ):
        with pytest.raises(InvalidStateTransitionError, match="is cancelled"):
            attempt()
    assert there(services, upload) == []
    with pytest.raises(NotFoundError):
        uploads.get_part(services, PROJECT, upload.id, ids[0])


def test_a_completed_upload_cannot_be_cancelled(services: Services) -> None:
    upload, ids = filled(services)
    complete(services, PROJECT, upload.id, part_ids=ids)
    with pytest.raises(InvalidStateTransitionError, match="is completed: it cannot be cancelled"):
        uploads.cancel(services, PROJECT, upload.id)


def test_an_upload_that_is_behind_its_time_has_expired_before_any_sweeper_comes(services: Services) -> None:
    upload, ids = filled(services)
    overtake(services, upload.id)
    assert uploads.get(services, PROJECT, upload.id).status == "expired"
    for attempt in (
        lambda: add(services, upload, b"x"),
        lambda: complete(services, PROJECT, upload.id, part_ids=ids),
        lambda: uploads.cancel(services, PROJECT, upload.id),
    ):
        with pytest.raises(InvalidStateTransitionError, match="is expired"):
            attempt()
    listed = {status: uploads.list_page(services, PROJECT, PageQuery(), status=status).items
              for status in ("pending", "expired")}  # fmt: skip
    assert [len(each) for each in listed.values()] == [0, 1]


def test_every_part_gives_an_upload_all_its_time_again(services: Services) -> None:
    upload = begin(services)
    with services.db.begin() as session:
        session.execute(update(UploadRow).values(expires_at=now() + 5))
    add(services, upload, b"one ")
    assert uploads.get(services, PROJECT, upload.id).expires_at > upload.created_at + 86_000


# === The sweeper ===


def test_abandoned_uploads_expire_with_all_their_parts_and_others_stay(services: Services) -> None:
    abandoned, _ = filled(services)
    alive, ids = filled(services)
    overtake(services, abandoned.id)
    assert sweep(services).expired == 1
    assert sweep(services).expired == 0
    with services.db.read() as session:
        assert set(session.scalars(select(UploadPartRow.upload_id))) == {alive.id}
    assert {blob.sha256 for blob in services.store.list_blobs()} == {
        part.sealed.sha256 for part in there(services, alive)
    }
    assert content_of(services, complete(services, PROJECT, alive.id, part_ids=ids)) == CONTENT


def test_of_many_sweepers_one_ends_an_upload_and_none_hurts_the_other(services: Services) -> None:
    begun = [filled(services)[0] for _ in range(6)]
    overtake(services, *(upload.id for upload in begun))
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: sweep(services), range(4)))
    assert sum(result.expired for result in results) == 6
    sweep(services)
    assert list(services.store.list_blobs()) == []


def test_a_sweep_takes_a_batch_and_the_next_one_the_rest(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.sweep.BATCH", 2)
    upload, _ = filled(services)
    uploads.cancel(services, PROJECT, upload.id)
    for left in (1, 0):
        sweep(services)
        with services.db.read() as session:
            assert len(session.scalars(select(UploadPartRow.id)).all()) == left


def test_a_sweep_that_has_no_time_left_deletes_one_part(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.sweep.DELETING_SECONDS", 0)
    upload, _ = filled(services)
    uploads.cancel(services, PROJECT, upload.id)
    for left in (2, 1, 0):
        sweep(services)
        with services.db.read() as session:
            assert len(session.scalars(select(UploadPartRow.id)).all()) == left


def test_parts_of_a_store_that_is_away_are_deleted_later(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, _ = filled(services)
    uploads.cancel(services, PROJECT, upload.id)

    def away(_: str) -> None:
        message = "It is away."
        raise ServiceUnavailableError(message)

    with monkeypatch.context() as broken:
        broken.setattr(services.store, "remove", away)
        sweep(services)
    assert len(list(services.store.list_blobs())) == 3
    sweep(services)
    assert list(services.store.list_blobs()) == []


def test_a_part_is_a_blob_of_its_own_so_that_deleting_it_hurts_nobody(world: Any, services: Services) -> None:
    file = world.file("one ")
    upload = begin(services)
    parts = [add(services, upload, b"one ") for _ in range(2)]
    assert len({file.blob.sha256, *(part.sealed.sha256 for part in parts)}) == 3
    uploads.cancel(services, PROJECT, upload.id)
    sweep(services)
    assert [blob.sha256 for blob in services.store.list_blobs()] == [file.blob.sha256]


# === Limits, room, projects ===


def test_a_file_beyond_the_limit_is_refused_before_anything_is_sent(services: Services) -> None:
    limit = services.settings.max_upload_bytes
    assert begin(services, size=limit).bytes == limit > 2**31
    with pytest.raises(TooLargeError, match="THAW_MAX_UPLOAD_BYTES"):
        begin(services, size=limit + 1)


def test_there_must_be_room_for_parts_and_whole(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.store._spool, "free_bytes", lambda: 27)  # type: ignore[attr-defined]
    with pytest.raises(StorageFullError, match="28 bytes more"):
        begin(services)
    monkeypatch.setattr(services.store._spool, "free_bytes", lambda: 28)  # type: ignore[attr-defined]
    upload, ids = filled(services)
    monkeypatch.setattr(services.store._spool, "free_bytes", lambda: 13)  # type: ignore[attr-defined]
    with pytest.raises(StorageFullError, match="14 bytes more"):
        complete(services, PROJECT, upload.id, part_ids=ids)
    monkeypatch.undo()
    assert complete(services, PROJECT, upload.id, part_ids=ids).status == "completed"


def test_another_projects_uploads_are_not_there(services: Services) -> None:
    upload, ids = filled(services)
    with services.db.begin() as session:
        session.add(ProjectRow(id="other", created_at=0))
    for attempt in (
        lambda: uploads.get(services, "other", upload.id),
        lambda: uploads.get_part(services, "other", upload.id, ids[0]),
        lambda: uploads.parts_page(services, "other", upload.id, PageQuery()),
        lambda: uploads.cancel(services, "other", upload.id),
        lambda: complete(services, "other", upload.id, part_ids=ids),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert uploads.list_page(services, "other", PageQuery()).items == []


# === Kills ===


def test_an_upload_whose_process_is_killed_anywhere_is_gone_on_with_and_becomes_one_file(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each statement and commit, and around each operation of the store."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # processes are killed here, not machines
    reaper, engine = Reaper(), services.db.engine
    mortal = replace(services, store=MortalStore(services.store, reaper))  # type: ignore[arg-type]  # a store by its calls
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, reaper.deed)
    try:
        for made, k in enumerate(itertools.count(1, STEPS[engine.dialect.name]), start=1):
            upload = begin(services)
            reaper.arm(k)
            with contextlib.suppress(Killed):
                _go_on(mortal, upload)
            killed = reaper.dead
            reaper.disarm()
            assert content_of(services, _go_on(services, upload)) == CONTENT
            assert len(files_made(services)) == made, "one for each upload"
            if not killed:
                assert k > 20
                return
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, reaper.deed)


def _go_on(services: Services, upload: Upload) -> Upload:
    """What a client does: it sends what is missing, and completes what is complete."""
    if uploads.get(services, PROJECT, upload.id).status == "completed":
        return uploads.get(services, PROJECT, upload.id)
    arrived = there(services, upload)
    if not arrived:
        add(services, upload, CONTENT, 1)
    return complete(services, PROJECT, upload.id, part_ids=[part.id for part in there(services, upload)])
