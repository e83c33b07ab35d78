"""The sweeper keeps at it, and the worker's own process stays free of TensorFlow."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

import worker.sweeper
from app.domain.errors import PlatformError
from app.domain.worker import WorkerCapabilities
from app.queue import QUEUES
from app.services import claims, workers
from app.storage.database import now
from app.storage.tables import JobRow
from worker import __main__ as command
from worker import messages, program
from worker.devices import CPU
from worker.messages import Failed, Ready
from worker.processes import Launcher
from worker.sweeper import Sweeper, version

CAPABILITIES = WorkerCapabilities(queues=["cpu"], devices=["cpu"], keras="3", tensorflow="2")


@pytest.mark.service
def test_it_goes_on_after_the_database_was_away(shop: Any, eventually: Callable[..., float]) -> None:
    shop.database.down = True
    sweeper = Sweeper(shop.services, worker="worker-1", capabilities=lambda: CAPABILITIES)
    sweeper.start()
    eventually(lambda: shop.database.refused >= 2)
    shop.database.down = False
    eventually(lambda: [worker.id for worker in workers.live(shop.services)] == ["worker-1"])
    sweeper.end()
    sweeper.join(5)
    assert not sweeper.is_alive()


@pytest.mark.service
def test_what_fails_in_a_round_keeps_nothing_else_from_being_done(
    shop: Any, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., float]
) -> None:
    called = []

    def broken(name: str) -> Callable[..., None]:
        def call(*_: object) -> None:
            called.append(name)
            raise ValueError(name)

        return call

    monkeypatch.setattr(worker.sweeper.aside, "resume", broken("resume"))
    monkeypatch.setattr(worker.sweeper.sweep, "sweep", broken("sweep"))
    sweeper = Sweeper(shop.services, worker="worker-1", capabilities=lambda: CAPABILITIES, look=broken("look"))
    sweeper.start()
    eventually(lambda: called[:4] == ["resume", "sweep", "look", "resume"])
    sweeper.end()
    sweeper.join(5)


@pytest.mark.service
def test_who_cannot_say_that_it_lives_sweeps_and_takes_nothing(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, sweeping makes room."""
    called: list[str] = []
    monkeypatch.setattr(worker.sweeper.workers, "announce", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(worker.sweeper.aside, "resume", lambda *_: called.append("resume"))
    monkeypatch.setattr(worker.sweeper.sweep, "sweep", lambda _: called.append("sweep"))
    sweeper = Sweeper(
        shop.services, worker="worker-1", capabilities=lambda: CAPABILITIES, look=lambda _: called.append("look")
    )
    sweeper._round()
    assert called == ["sweep"]


@pytest.mark.service
def test_it_rings_again_for_what_nobody_took(shop: Any, eventually: Callable[..., float]) -> None:
    job_id = shop.submit("succeed")
    shop.bell.rung.clear()
    sweeper = Sweeper(shop.services, worker="worker-1", capabilities=lambda: CAPABILITIES)
    sweeper.start()
    eventually(lambda: ("train", job_id, "cpu") in shop.bell.rung)
    sweeper.end()
    sweeper.join(5)


@pytest.mark.service
def test_a_worker_that_still_loads_takes_back_what_a_dead_one_had_and_serves_nothing_yet(
    shop: Any, eventually: Callable[..., float]
) -> None:
    job_id = shop.submit("succeed")
    assert claims.claim_job(shop.services, job_id, worker="worker-dead") is not None
    with shop.database.begin() as session:
        session.execute(update(JobRow).values(lease_expires_at=now() - 1))
    seen: list[tuple[str, list[str]]] = []

    class Loading(Launcher):
        def warm(self) -> float:
            eventually(lambda: shop.get(job_id).status == "queued")
            seen.extend((worker.id, list(worker.queues)) for worker in workers.live(shop.services))
            message = "TensorFlow cannot be loaded."
            raise PlatformError(message)

    with pytest.raises(PlatformError, match="cannot be loaded"):
        program._serve(shop.services, Loading(), name="worker-new", queues=["cpu"], lent=[CPU])
    assert seen == [("worker-new", [])]


def test_versions_are_known_without_an_import() -> None:
    assert version("keras")
    assert version("no-such-package") is None


def test_the_process_that_supervises_imports_no_tensorflow() -> None:
    program = (
        "import sys, worker.__main__, worker.celery_app, worker.tasks, worker.supervisor\n"
        "print({'tensorflow', 'keras', 'h5py', 'numpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_a_child_imports_neither_celery_nor_the_database() -> None:
    unwanted = {"celery", "kombu", "redis", "sqlalchemy", "app.settings", "app.services", "app.queue"}
    program = f"import sys, worker.child; print({unwanted!r} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_queues_are_named_on_the_command_line() -> None:
    assert command._parser().parse_args(["--queues", "cpu,prepare,cpu"]).queues == ["cpu", "prepare"]


@pytest.mark.parametrize("arguments", [[], ["--queues", "gpus"], ["--queues", ""]])
def test_a_wrong_command_line_says_what_there_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command._parser().parse_args(arguments)
    assert ended.value.code == 2
    words = capsys.readouterr().err
    assert "--queues" in words
    assert not arguments or all(queue in words for queue in QUEUES)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"type":"trained"}', b'{"type":"none"}', b"\x80\x04."])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    from app.domain.errors import PlatformError

    with pytest.raises(PlatformError):
        messages.decode(data)


def test_messages_survive_the_journey() -> None:
    from app.domain.errors import CutError

    for message in (Ready(), Failed(failure=CutError("No.", param="cut").failure())):
        assert messages.decode(messages.encode(message)) == message


def test_messages_arrive_whole_however_they_are_cut() -> None:
    from app.domain.errors import CutError

    sent: list[messages.Message] = [Ready(), Failed(failure=CutError("No.\nNever.", param="cut").failure()), Ready()]
    data = b"".join(map(messages.encode, sent))
    for size in (1, 7, len(data) - 1, len(data)):
        inbox = messages.Inbox()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [each for piece in pieces for each in inbox.take(piece)] == sent


@pytest.mark.service
def test_it_deletes_artifacts_that_nothing_refers_to(
    open_shop: Callable[..., Any], eventually: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.sweeper, "_SOON_SECONDS", 0.0)
    shop = open_shop(orphan_grace_seconds=0.01)
    with shop.services.store.writer(max_bytes=100) as writer:
        writer.write(b"nobody's")
        orphan = writer.commit()
    sweeper = Sweeper(shop.services, worker="worker-1", capabilities=lambda: CAPABILITIES)
    sweeper.start()
    eventually(lambda: not shop.services.store.exists(orphan.sha256))
    sweeper.end()
    sweeper.join(5)
    assert shop.train("succeed").status == "succeeded", "what jobs need is there"
