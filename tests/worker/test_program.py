"""Real worker processes on a real Valkey server: kills, restarts, signals. No job is lost, none runs twice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text

from app.domain.job import JobRequest
from app.domain.model import ModelOptions
from app.domain.phases import Phase
from app.queue import CeleryDoorbell
from app.services import jobs, models, workers
from app.services.context import DEFAULT_PROJECT
from app.standalone.service import HURRY_SECONDS, KILL_AFTER_SECONDS, WORKER_AGAIN_SECONDS
from app.storage.database import Database, sqlite_library, upgrade
from app.storage.paging import PageQuery
from app.storage.tables import JobRow, ModelRow
from worker import program
from worker.watch import GRACE_SECONDS

pytestmark = pytest.mark.service

ENTRIES = Path(__file__).parent / "entries"
SECRETS = {
    "THAW_API_KEY": "thaw_hunter2",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "DATABASE_URL": "postgresql://thaw:hunter2@db/thaw",
}
Eventually = Callable[..., float]


@dataclasses.dataclass
class RunningWorker:
    """A worker process with everything that it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def family(self) -> list[psutil.Process]:
        """Its forkserver, resource tracker and children."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int) -> int:
        """Signal it; returns its exit code: 0 if it left in order, 1 if it took longer than it may."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def insist(self, number: int) -> int:
        """Signal it when it takes that for a second time; returns its exit code."""
        time.sleep(program.AGAIN_SECONDS + 0.1)
        return self.end(number)


@dataclasses.dataclass
class Yard:
    """A data folder with a broker, on which workers are started."""

    shop: Any
    valkey: Any
    environment: dict[str, str]
    folder: Path
    running: list[RunningWorker]

    def start(self, queues: str = "cpu", *more: str) -> RunningWorker:
        log = self.folder / f"worker-{len(self.running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fake_worker", queues, *more], env=self.environment, stdout=output, stderr=output
            )
        self.running.append(RunningWorker(process, log))
        return self.running[-1]

    def get(self, job_id: str) -> Any:
        return self.shop.get(job_id)

    def stop_between_writes(self, processes: list[psutil.Process]) -> bool:
        """Stop them, unless one is writing: SQLite lets nobody else write until that one has ended."""
        for process in processes:
            process.suspend()
        database, sqlite = self.shop.services.settings.data_dir / "thaw.db", sqlite_library()
        try:
            with closing(sqlite.connect(database, timeout=0.5, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        except sqlite.OperationalError:
            for process in processes:
                process.resume()
            return False
        return True

    def wait_for(self, status: str, *job_ids: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while {self.get(job_id).status for job_id in job_ids} != {status}:
            assert time.monotonic() < deadline, self.story(*job_ids)
            time.sleep(0.02)

    def story(self, *job_ids: str) -> str:
        states = [(self.get(job_id).status, self.get(job_id).attempt, self.get(job_id).error) for job_id in job_ids]
        return f"{states}\n" + "\n".join(each.log.read_text() for each in self.running)


@pytest.fixture(autouse=True)
def _hangups_are_heard() -> Iterator[None]:
    """Also where the tests run under `nohup`: a worker leaves what it inherits as ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _open_yard(open_shop: Callable[..., Any], valkey: Any, gone: Callable[..., bool]) -> Iterator[Yard]:
    shop = open_shop(redis_url=valkey.url, lease_seconds=5.0, fence_seconds=4.0)
    shop.services = dataclasses.replace(shop.services, doorbell=CeleryDoorbell(shop.services.settings))
    settings = shop.services.settings
    names = ("lease_seconds", "heartbeat_seconds", "fence_seconds", "sweep_seconds", "ring_again_seconds")
    environment = {
        **os.environ,
        **SECRETS,
        "PYTHONPATH": f"{ENTRIES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "THAW_DATA_DIR": str(settings.data_dir),
        "THAW_REDIS_URL": valkey.url,
        "THAW_MIN_FREE_DISK_BYTES": "0",
        **{f"THAW_{name.upper()}": str(getattr(settings, name)) for name in names},
    }
    running: list[RunningWorker] = []
    yield Yard(shop, valkey, environment, settings.data_dir, running)
    families = [process for each in running if each.process.poll() is None for process in each.family()]
    for each in running:
        each.process.kill()
        each.process.wait()
    deadline = time.monotonic() + 30
    while not gone(families):
        assert time.monotonic() < deadline, "nothing outlives a killed worker"


yard = pytest.fixture(_open_yard, name="yard")


def _open_shared_yard(open_shop: Callable[..., Any], shared_valkey: Any, gone: Any) -> Iterator[Yard]:
    for opened in _open_yard(open_shop, shared_valkey, gone):
        opened.start("cpu,prepare")
        yield opened


shared_yard = pytest.fixture(_open_shared_yard, name="shared_yard", scope="module")
# === Work ===


def test_hints_reach_a_worker_that_says_what_it_is(shared_yard: Yard) -> None:
    job_ids = [shared_yard.shop.submit("succeed") for _ in range(3)]
    shared_yard.wait_for("succeeded", *job_ids)
    (info,) = workers.live(shared_yard.shop.services)
    assert (info.queues, info.devices) == (["cpu", "prepare"], ["cpu"])
    assert info.keras is not None
    assert info.tensorflow is not None
    assert {shared_yard.get(job_id).attempt.worker for job_id in job_ids} == {info.id}


def test_a_worker_that_trains_tells_what_its_self_test_found(shared_yard: Yard, eventually: Eventually) -> None:
    services = shared_yard.shop.services
    eventually(lambda: [worker.self_test for worker in workers.live(services) if worker.self_test])
    (info,) = workers.live(services)
    assert info.self_test is not None
    assert {fact.name: fact.holds for fact in info.self_test.facts} == {
        "frozen_weights_stay_still": True,
        "same_seed_same_bits_across_processes": True,
    }
    assert (info.refuses_training, info.resume_fidelity) == (None, "exact")
    assert list(services.settings.selftest_dir().iterdir()), "kept for the next start"


def test_files_are_checked_while_a_training_runs(shared_yard: Yard) -> None:
    shop = shared_yard.shop
    long = [shop.submit("forever") for _ in range(3)]
    shared_yard.wait_for("running", long[0])
    request = JobRequest(
        model=shop.upload("register.keras").id,
        training_file=shop.upload("validate.npz").id,
        schedule=[Phase(name="succeed", epochs=1)],
    )
    job = jobs.submit(shop.services, DEFAULT_PROJECT, request)
    assert job.status == "validating_files"
    shared_yard.wait_for("queued", job.id)
    statuses = [shared_yard.get(job_id).status for job_id in long]
    assert statuses == ["running", "queued", "queued"], "one training at a time"
    for job_id in long:
        jobs.request_cancel(shop.services, DEFAULT_PROJECT, job_id)
    shared_yard.wait_for("cancelled", *long)
    shared_yard.wait_for("succeeded", job.id)


def test_no_process_of_a_job_has_a_credential_in_its_environment(shared_yard: Yard, eventually: Eventually) -> None:
    job_id = shared_yard.shop.submit("forever")
    eventually(lambda: shared_yard.get(job_id).phase)
    family = shared_yard.running[0].family()
    assert len(family) >= 3, "forkserver, resource tracker, training process"
    for process in family:
        environment = Path(f"/proc/{process.pid}/environ").read_text()
        assert "hunter2" not in environment
        assert shared_yard.valkey.url not in environment
        assert "PATH=" in environment
    jobs.request_cancel(shared_yard.shop.services, DEFAULT_PROJECT, job_id)
    shared_yard.wait_for("cancelled", job_id)


def test_what_a_worker_logs_is_json_and_says_which_job_and_attempt(shared_yard: Yard, eventually: Eventually) -> None:
    job_id, log = shared_yard.shop.submit("succeed"), shared_yard.running[0].log
    shared_yard.wait_for("succeeded", job_id)
    eventually(lambda: [line for line in log.read_text().splitlines() if job_id in line and "attempt ended" in line])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (ended,) = [line for line in lines if line.get("job_id") == job_id and line["event"] == "attempt ended"]
    assert (ended["attempt"], ended["task"], ended["logger"]) == (1, "train", "worker.attempt")
    assert ended["worker"] == shared_yard.get(job_id).attempt.worker
    starts = next(line for line in lines if line["event"] == "worker starts")
    assert "attempt" not in starts


def test_an_idle_worker_begins_what_a_busy_one_has_heard_of(yard: Yard, eventually: Eventually) -> None:
    yard.environment["THAW_RING_AGAIN_SECONDS"] = "3600"
    busy = yard.start("cpu,prepare")
    running = yard.shop.submit("forever")
    yard.wait_for("running", running)
    waiting = yard.shop.submit("forever")
    eventually(lambda: yard.valkey.command("LLEN", "thaw:cpu") == b":0\r\n")
    idle = yard.start("cpu")
    yard.wait_for("running", waiting)
    assert yard.get(waiting).attempt.worker in idle.log.read_text()
    assert busy.process.poll() is None
    idle.process.send_signal(signal.SIGUSR1)
    eventually(lambda: any(each.draining for each in workers.live(yard.shop.services)))
    assert idle.process.poll() is None, "it finishes what it has"
    assert idle.end(signal.SIGTERM) == 0, idle.log.read_text()
    assert yard.get(waiting).status == "queued"
    assert _lost_attempts(yard, waiting) == 0


# === The broker ===


def test_a_killed_broker_neither_stops_what_runs_nor_what_comes_after(shared_yard: Yard) -> None:
    running = shared_yard.shop.submit("forever")
    shared_yard.wait_for("running", running)
    for _ in range(2):
        shared_yard.valkey.kill()
        waiting = shared_yard.shop.submit("succeed")
        shared_yard.valkey.start()
    assert shared_yard.get(running).status == "running"
    jobs.request_cancel(shared_yard.shop.services, DEFAULT_PROJECT, running)
    shared_yard.wait_for("cancelled", running)
    shared_yard.wait_for("succeeded", waiting)
    assert shared_yard.get(running).attempt.number == 1
    after = shared_yard.shop.submit("succeed")
    shared_yard.wait_for("succeeded", after)


def test_an_emptied_broker_loses_no_job(shared_yard: Yard) -> None:
    long = shared_yard.shop.submit("forever")
    shared_yard.wait_for("running", long)
    job_ids = [shared_yard.shop.submit("succeed") for _ in range(5)]
    assert shared_yard.valkey.command("FLUSHALL") == b"+OK\r\n"
    jobs.request_cancel(shared_yard.shop.services, DEFAULT_PROJECT, long)
    shared_yard.wait_for("succeeded", *job_ids)
    assert {shared_yard.get(job_id).attempt.number for job_id in job_ids} == {1}


def test_a_broker_that_refuses_every_write_ends_no_worker(shared_yard: Yard) -> None:
    """As it does when its disk is full, in other words."""
    (worker,) = shared_yard.running
    assert shared_yard.valkey.command("CONFIG SET min-replicas-to-write 1") == b"+OK\r\n"
    _until_log_says(worker, "NOREPLICAS")
    job_id = shared_yard.shop.submit("succeed")
    assert shared_yard.valkey.command("CONFIG SET min-replicas-to-write 0") == b"+OK\r\n"
    shared_yard.wait_for("succeeded", job_id)
    assert worker.process.poll() is None


def test_a_worker_waits_for_a_broker_that_is_not_there_yet_and_stops_without_it(
    yard: Yard, eventually: Eventually
) -> None:
    yard.environment["THAW_SWEEP_SECONDS"] = "3"  # so that it does not look by itself before a hint can come
    yard.valkey.kill()
    worker = yard.start()
    job_id = yard.shop.submit("succeed")
    _until_log_says(worker, "Cannot connect")
    yard.valkey.start()
    yard.wait_for("succeeded", job_id)
    eventually(lambda: b"cmd=brpop" in yard.valkey.command("CLIENT", "LIST").lower())
    running = yard.shop.submit("forever")
    yard.wait_for("running", running)
    yard.shop.submit("succeed")
    assert yard.valkey.command("LLEN", "thaw:cpu") != b":0\r\n", "a busy worker reserves nothing"
    assert yard.valkey.command("HLEN", "thaw:unacked") == b":0\r\n", "what it took is acknowledged"
    yard.valkey.kill()
    worker.end(signal.SIGTERM)
    assert yard.get(running).status == "queued"


# === Death ===


def test_a_killed_worker_takes_its_children_along_and_another_finishes_its_job_once(
    yard: Yard, eventually: Eventually, gone: Callable[..., bool]
) -> None:
    first = yard.start()
    job_id, others = yard.shop.submit("hang"), [yard.shop.submit("slow") for _ in range(3)]
    eventually(lambda: yard.get(job_id).phase)
    family = first.family()
    work = yard.shop.services.settings.work_dir()
    assert (work / f"{job_id}-1").is_dir()
    first.process.kill()
    first.process.wait()
    eventually(lambda: gone(family))

    second = yard.start()
    eventually(lambda: yard.get(job_id).attempt.number == 2)
    assert not (work / f"{job_id}-1").exists(), "what the dead one left is removed"
    eventually(lambda: any(yard.get(other).status == "running" for other in [job_id, *others]))
    second.process.kill()
    second.process.wait()

    yard.start()
    jobs.request_cancel(yard.shop.services, DEFAULT_PROJECT, job_id)
    yard.wait_for("succeeded", *others)
    yard.wait_for("cancelled", job_id)
    made = models.list_page(yard.shop.services, DEFAULT_PROJECT, PageQuery(limit=100)).items
    results = sorted(str(yard.get(other).result_model_id) for other in others)
    assert sorted(model.id for model in made if model.job_id) == results, "one result each"


def test_a_worker_that_is_killed_while_it_starts_leaves_nothing_behind(
    yard: Yard, eventually: Eventually, gone: Callable[..., bool]
) -> None:
    worker = yard.start()
    eventually(worker.family)
    family = worker.family()
    worker.process.kill()
    eventually(lambda: gone(family))


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_when_it_goes_on(
    yard: Yard, eventually: Eventually
) -> None:
    yard.environment["THAW_FENCE_SECONDS"] = "3600"  # so that it does not give up by itself before it writes
    zombie = yard.start()
    job_id = yard.shop.submit("count-on")
    eventually(lambda: yard.get(job_id).phase)
    stopped = [psutil.Process(zombie.process.pid), *zombie.family()]
    eventually(lambda: yard.stop_between_writes(stopped))
    second = yard.start()
    yard.wait_for("running", job_id)
    eventually(lambda: yard.get(job_id).attempt.number == 2, seconds=60)
    for process in stopped:
        process.resume()
    yard.wait_for("succeeded", job_id)
    refused = f"Attempt 1 no longer holds '{job_id}'"
    eventually(lambda: "lease lost" in zombie.log.read_text() and refused in zombie.log.read_text())
    eventually(lambda: '"ending": "lease lost"' in zombie.log.read_text())
    job = yard.get(job_id)
    assert (job.attempt.number, job.attempt.worker in second.log.read_text()) == (2, True)
    (result,) = models.list_page(yard.shop.services, DEFAULT_PROJECT, PageQuery(limit=100, order="desc")).items[:1]
    assert (result.id, result.job_id) == (job.result_model_id, job_id)
    content = b"".join(yard.shop.services.store.read(result.download[0].sha256))
    assert content == f"model of attempt in {job_id}-2".encode()


# === Stopping ===


@pytest.mark.parametrize("insists", [False, True])
def test_a_signal_gives_the_job_back_for_free_and_leaves_nothing_behind(
    yard: Yard, eventually: Eventually, gone: Callable[..., bool], *, insists: bool
) -> None:
    worker = yard.start("cpu", *["patient"] * insists)
    job_id = yard.shop.submit("deaf")
    eventually(lambda: yard.get(job_id).stage)
    family = worker.family()
    asked = time.monotonic()
    worker.process.send_signal(signal.SIGHUP)
    eventually(lambda: "Warm shutdown" in worker.log.read_text())
    # As `thaw up` does after a service manager that has told everybody, or somebody who is impatient.
    assert (worker.insist if insists else worker.end)(signal.SIGINT) == 0, worker.log.read_text()
    assert insists or time.monotonic() - asked >= GRACE_SECONDS["stop"], "it is waited for, once"
    eventually(lambda: gone(family))
    job = yard.get(job_id)
    assert (job.status, job.attempt.lease_expires_at, _lost_attempts(yard, job_id)) == ("queued", None, 0)
    assert list(yard.shop.services.settings.work_dir().iterdir()) == []
    assert "Traceback" not in worker.log.read_text()


def test_thaw_up_waits_until_its_worker_takes_a_signal_for_a_second_one() -> None:
    assert program.AGAIN_SECONDS < WORKER_AGAIN_SECONDS
    assert program.HURRY_SECONDS < HURRY_SECONDS < program.STOP_SECONDS < KILL_AFTER_SECONDS
    assert GRACE_SECONDS["stop"] < program.STOP_SECONDS < 8
    assert program.HURRY_SECONDS < 2.5


def _lost_attempts(yard: Yard, job_id: str) -> int:
    with yard.shop.services.db.read() as session:
        return session.scalars(select(JobRow.lost_attempts).where(JobRow.id == job_id)).one()


def test_what_hangs_is_given_back_for_free_before_the_worker_leaves_as_it_is(
    yard: Yard, eventually: Eventually
) -> None:
    worker = yard.start("cpu,prepare", "stuck")
    job_id, file = yard.shop.submit("succeed"), yard.shop.upload("register.keras")
    services = yard.shop.services
    model = models.register(services, DEFAULT_PROJECT, file_id=file.id, name=None, options=ModelOptions())

    def standing() -> list[tuple[int, bool, int]]:
        with services.db.read() as session:
            rows = session.get_one(JobRow, job_id), session.get_one(ModelRow, model.id)
            return [(row.attempt, row.lease_expires_at is not None, row.lost_attempts) for row in rows]

    eventually(lambda: standing() == [(1, True, 0), (1, True, 0)])
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log.read_text())
    assert worker.insist(signal.SIGTERM) == 1, worker.log.read_text()
    left = next(line for line in worker.log.read_text().splitlines() if "leaving as it is" in line)
    assert json.loads(left)["seconds"] == program.HURRY_SECONDS
    assert standing() == [(1, False, 0), (1, False, 0)]
    assert "Traceback" not in worker.log.read_text()


def test_a_worker_stops_although_the_broker_hangs(yard: Yard) -> None:
    worker = yard.start()
    job_id = yard.shop.submit("forever")
    yard.wait_for("running", job_id)
    yard.valkey.signal(signal.SIGSTOP)
    worker.end(signal.SIGTERM)
    yard.valkey.signal(signal.SIGCONT)
    assert yard.get(job_id).status == "queued"


def test_a_worker_stops_in_time_although_the_database_hangs(
    yard: Yard, eventually: Eventually, gone: Callable[..., bool]
) -> None:
    worker = yard.start()
    job_id = yard.shop.submit("forever")
    eventually(lambda: yard.get(job_id).phase)
    family = worker.family()
    with yard.shop.services.db.begin() as session:
        session.execute(text("SELECT 1"))  # nobody else can write now
        assert worker.end(signal.SIGTERM) == 1
    eventually(lambda: gone(family))
    assert yard.get(job_id).status == "running", "its lease runs out, and the sweeper takes it back"


# === Draining ===


def test_a_drained_worker_finishes_what_it_has_takes_nothing_more_and_leaves(
    yard: Yard, eventually: Eventually
) -> None:
    worker = yard.start()
    running, waiting = yard.shop.submit("forever"), yard.shop.submit("succeed")
    yard.wait_for("running", running)
    worker.process.send_signal(signal.SIGUSR1)
    eventually(lambda: [(each.draining, each.queues) for each in workers.live(yard.shop.services)] == [(True, [])])
    assert yard.get(running).status == "running"
    jobs.request_cancel(yard.shop.services, DEFAULT_PROJECT, running)
    assert worker.process.wait(30) == 0, worker.log.read_text()
    assert yard.get(running).status == "cancelled"
    assert (yard.get(waiting).status, yard.get(waiting).attempt.number) == ("queued", 0)


def test_a_draining_worker_can_still_be_stopped(yard: Yard, eventually: Eventually) -> None:
    worker = yard.start()
    running = yard.shop.submit("forever")
    eventually(lambda: yard.get(running).phase)
    worker.process.send_signal(signal.SIGUSR1)
    eventually(lambda: any(each.draining for each in workers.live(yard.shop.services)))
    assert worker.end(signal.SIGTERM) == 0, worker.log.read_text()
    assert yard.get(running).status == "queued"


def _until_log_says(worker: RunningWorker, words: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while words not in worker.log.read_text():
        assert time.monotonic() < deadline, worker.log.read_text()
        time.sleep(0.02)


# === What a worker needs ===


@pytest.mark.parametrize(
    ("setting", "reason"),
    [({"THAW_S3_SECRET_KEY": "hunter2"}, "does not answer"), ({}, "belong together")],
)
def test_a_worker_that_could_neither_fetch_nor_upload_does_not_start(
    tmp_path: Path, setting: dict[str, str], reason: str
) -> None:
    nobody = {
        "THAW_ARTIFACTS_URL": "s3://bucket",
        "THAW_S3_ENDPOINT": "http://127.0.0.1:1",
        "THAW_S3_ACCESS_KEY": "key",
    }
    environment = {**os.environ, "THAW_DATA_DIR": str(tmp_path), **nobody, **setting}
    command = [sys.executable, "-m", "worker", "--queues", "cpu"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_worker_leaves_a_database_of_another_version_alone(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'thaw.db'}")
    upgrade(db)
    with db.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    db.close()
    environment = {**os.environ, "THAW_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "worker", "--queues", "cpu"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, "a newer Thaw upgraded it" in ended.stderr) == (1, True), ended.stderr
