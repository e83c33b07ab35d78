"""The relay writes what a process reports: soon, in order, and not too often."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.domain.artifacts import Artifact, Blob
from app.domain.errors import PlatformError, StorageFullError
from app.domain.progress import EpochFinished, FreezeProof, PhaseFinished, PhaseProgress, Progress, StepFinished
from worker import relay
from worker.relay import Relay

PHASE = PhaseProgress(index=1, name="head", epoch=1, epochs=9)


class FakeLease:
    """Ours for ever."""

    def persist(self, write: Callable[[], Any]) -> Any:
        return write()

    def give_up(self, reason: str) -> None:
        raise AssertionError(reason)


class FakeStore:
    def __init__(self, *, full: bool = False) -> None:
        self.full = full

    def put_file(self, path: Path, **_: object) -> Blob:
        if self.full:
            message = "Full."
            raise StorageFullError(message)
        return Blob(sha256=path.read_text() * 64, bytes=1)


class Book:
    """What was written."""

    def __init__(self) -> None:
        self.batches: list[list[Progress]] = []
        self.checkpoints: dict[str, Artifact] = {}

    def write(self, told: Sequence[Progress], checkpoints: Mapping[str, Artifact]) -> None:
        self.batches.append(list(told))
        self.checkpoints.update(checkpoints)


def _relay(book: Book, tmp_path: Path, *, full: bool = False) -> Relay:
    return Relay(book.write, lease=FakeLease(), store=FakeStore(full=full), run=tmp_path)


def _step(number: int) -> StepFinished:
    return StepFinished(phase=PHASE, step=number, steps=100)


def _epoch(number: int) -> EpochFinished:
    return EpochFinished(phase=PHASE, step=number, metrics={})


def _finished(checkpoint: str) -> PhaseFinished:
    proof = FreezeProof(
        phase="head",
        frozen_variables=0,
        frozen_digest_before="",
        frozen_digest_after="",
        trained_variables=1,
        moved_variables=1,
        held=True,
    )
    return PhaseFinished(phase=PHASE, stopped_early=False, proof=proof, checkpoint=checkpoint)


def test_it_writes_at_most_twice_a_second_and_everything_but_older_steps(tmp_path: Path) -> None:
    book, told = Book(), 0
    passed_on = _relay(book, tmp_path)
    began = time.monotonic()
    while time.monotonic() < began + 1.3:
        told += 1
        passed_on.add(_step(told))
        passed_on.add(_epoch(told))
        passed_on.add(_step(-1))
        threading.Event().wait(0.001)
    passed_on.finish()
    written = [progress for batch in book.batches for progress in batch]
    assert [progress.step for progress in written if isinstance(progress, EpochFinished)] == list(range(1, told + 1))
    assert len(book.batches) <= 3 + (time.monotonic() - began) / relay.FLUSH_SECONDS


def test_of_several_steps_only_the_last_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 600)
    book = Book()
    passed_on = _relay(book, tmp_path)
    for number in range(200):
        passed_on.add(_step(number))
    passed_on.finish()
    assert len([progress for batch in book.batches for progress in batch]) <= 2
    assert book.batches[-1][-1] == _step(199)


def test_the_first_report_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., float]
) -> None:
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 600)
    book = Book()
    passed_on = _relay(book, tmp_path)
    passed_on.add(_epoch(1))
    eventually(lambda: book.batches)
    passed_on.finish()


def test_checkpoints_are_uploaded_before_they_are_written_down(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "head.safetensors").write_text("a")
    book = Book()
    passed_on = _relay(book, tmp_path)
    passed_on.add(_finished("checkpoints/head.safetensors"))
    passed_on.finish()
    artifact = Artifact(name="head.safetensors", sha256="a" * 64, bytes=1)
    assert book.checkpoints == {"checkpoints/head.safetensors": artifact}


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "folder/../../secret", "."])
def test_only_files_of_the_attempt_itself_are_uploaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("a")
    run = tmp_path / "run"
    (run / "folder").mkdir(parents=True)
    (run / "link").symlink_to(tmp_path / "secret")
    book = Book()
    passed_on = _relay(book, run)
    passed_on.add(_finished(name))
    with pytest.raises(PlatformError):
        passed_on.finish()
    assert book.batches == []


def test_what_keeps_it_from_writing_is_raised_and_nothing_comes_after_it(
    tmp_path: Path, eventually: Callable[..., float]
) -> None:
    (tmp_path / "x").write_text("a")
    book = Book()
    passed_on = _relay(book, tmp_path, full=True)
    passed_on.add(_finished("x"))
    eventually(lambda: passed_on.error)
    passed_on.add(_epoch(1))
    with pytest.raises(StorageFullError):
        passed_on.finish()
    assert book.batches == []


def test_a_process_that_says_too_much_has_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_WAITING", 3)
    began, blocked = threading.Event(), threading.Event()

    def write(*_: object) -> None:
        began.set()
        blocked.wait(60)

    passed_on = Relay(write, lease=FakeLease(), store=FakeStore(), run=tmp_path)
    passed_on.add(_epoch(1))
    assert began.wait(60)
    for number in (2, 3, 4):
        assert not passed_on.full
        passed_on.add(_epoch(number))
    assert passed_on.full
    blocked.set()
    passed_on.finish()
    assert not passed_on.full


@pytest.mark.parametrize(
    ("said", "raised"), [("database or disk is full", StorageFullError), ("database is locked", OperationalError)]
)
def test_a_disk_that_is_full_for_the_database_too_ends_the_attempt(
    tmp_path: Path, said: str, raised: type[Exception]
) -> None:
    """Others are the lease's to wait for."""

    def write(*_: object) -> None:
        statement = "UPDATE"
        raise OperationalError(statement, {}, Exception(said))

    relay = Relay(write, lease=FakeLease(), store=FakeStore(), run=tmp_path)
    relay.add(_step(1))
    with pytest.raises(raised):
        relay.finish()
