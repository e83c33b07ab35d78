"""Steps that drills share: submit, wait, look at histories, find who has a job, kill."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import psutil
import redis

from tests.chaos import checker
from tests.chaos.clients import TERMINAL, Accepted, Client, Errand, Wish
from tests.chaos.evidence import Evidence, parsed
from tests.chaos.run import Site
from tests.chaos.stacks import Stack

PATIENCE_SECONDS = 600.0
"""Whatever takes longer than this has failed."""
_LOOK_SECONDS = 0.05

Something = TypeVar("Something")


def until(condition: Callable[[], Something | None], *, seconds: float = PATIENCE_SECONDS) -> Something:
    """What the condition gives as soon as that is something. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            message = f"waited {seconds:.0f} s in vain"
            raise TimeoutError(message)
        time.sleep(_LOOK_SECONDS)
    return found


# === Jobs ===


def submit(site: Site, kind: str, name: str, *, wish: Wish = "finish", client: Client | None = None) -> Accepted:
    """A job; `name` becomes its Idempotency-Key."""
    errand = Errand(number=0, kind=kind, wish=wish, after_seconds=0, rest_seconds=0)
    return site.create(errand, name, client or site.client)


def see_ended(site: Site, jobs: Sequence[Accepted]) -> None:
    """Wait for the end of all of them, as their clients see it."""
    for job in jobs:
        status = site.client.wait(job, lambda _: False, seconds=PATIENCE_SECONDS)["status"]
        job.ended = status if status in TERMINAL else None


def verdict(site: Site, jobs: Sequence[Accepted]) -> checker.Verdict:
    """What the checker says of the whole service."""
    return checker.check(site.stack.evidence(), jobs, site.references)


# === Histories ===


@dataclass(frozen=True)
class Move:
    """A status that a job came into, by the database's clock."""

    status: str
    attempt: int
    at: float


def moves(evidence: Evidence, job_id: str) -> list[Move]:
    """All of a job, in their order."""
    query = "SELECT created_at, data FROM events WHERE job_id = ? AND type IN ('status', 'completed') ORDER BY number"
    told = [(row["created_at"], parsed(row["data"])) for row in evidence.rows(query, job_id)]
    return [Move(data["status"], data["attempt"], at) for at, data in told]


def kept_step(evidence: Evidence, job_id: str, *, attempt: int | None = None, since: float = 0.0) -> int | None:
    """The furthest step that the job can go on from, of one attempt or of all; `None`: nothing is kept."""
    query = "SELECT attempt, step FROM checkpoints WHERE job_id = ? AND kind = 'resume' AND created_at >= ?"
    steps = [row["step"] for row in evidence.rows(query, job_id, since) if attempt in {None, row["attempt"]}]
    return max(steps, default=None)


# === Processes ===


def children_of(stack: Stack, job_id: str) -> list[psutil.Process]:
    """The processes that train this job: they work in its folder."""
    found = []
    for child in stack.find("child"):
        with contextlib.suppress(psutil.Error):
            if job_id in child.cwd():
                found.append(child)
    return found


def worker_of(stack: Stack, job_id: str) -> psutil.Process | None:
    """The worker below which this job is trained."""
    for child in children_of(stack, job_id):
        with contextlib.suppress(psutil.Error, IndexError):
            return child.parents()[1]
    return None


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """A signal to all of them that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(cast("int", number))


def kill(processes: Sequence[psutil.Process]) -> None:
    """At once."""
    send(processes, signal.SIGKILL)


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """They stand still until the block ends."""
    send(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        send(processes, signal.SIGCONT)


# === The broker ===


def broker_answers(stack: Stack) -> bool:
    """Whether it takes commands now."""
    with contextlib.suppress(redis.RedisError, OSError), stack.broker() as broker:
        return bool(broker.ping())
    return False


def listening(stack: Stack) -> int:
    """How many connections wait for hints."""
    with contextlib.suppress(redis.RedisError, OSError), stack.broker() as broker:
        return sum(client["cmd"].lower() == "brpop" for client in broker.client_list())
    return 0


def waiting_hints(stack: Stack) -> int:
    """Hints that nobody has taken yet. Raises `redis.RedisError` where the broker does not answer."""
    with stack.broker() as broker:
        return sum(int(broker.llen(key)) for key in broker.scan_iter("thaw:*", _type="list"))


@contextmanager
def broker_away(stack: Stack) -> Iterator[None]:
    """Nobody reaches the broker until the block ends: it is dead, or, where it is started again at once, hangs."""
    kept = next((program for program in stack.programs if program.target == "broker"), None)
    if kept is None:
        with stopped(stack.find("broker")):
            yield
        return
    launch, back = kept.launch, False

    def wait_and_launch() -> "object":
        until(lambda: back)
        return launch()

    kept.launch = wait_and_launch  # type: ignore[assignment]
    try:
        kill(stack.find("broker"))
        yield
    finally:
        back = True
        kept.launch = launch


# === Workers ===

_HEALTHY_SECONDS = 61.0


def live_workers(site: Site) -> int:
    """How many there are that have said so lately and serve a queue."""
    answer = site.client.ask("GET", "/v1/capabilities")
    answer.raise_for_status()
    return sum(bool(worker["live"] and worker["queues"]) for worker in answer.json()["workers"])


def until_workers_are_there(site: Site) -> None:
    """Until as many have announced themselves as there are programs."""
    kept = [program for program in site.stack.programs if program.target == "worker"]
    until(lambda: live_workers(site) >= max(1, len(kept)))


def until_workers_are_healthy(site: Site) -> None:
    """Until all are there; one that `thaw up` keeps, until it has lived for a minute.

    It starts a worker again after a second, and waits twice as long each time that one did not live for so long.
    """
    until_workers_are_there(site)
    if all(program.target != "worker" for program in site.stack.programs):
        until(lambda: any(_age(worker) >= _HEALTHY_SECONDS for worker in site.stack.find("worker")))


def _age(process: psutil.Process) -> float:
    return time.time() - process.create_time()
