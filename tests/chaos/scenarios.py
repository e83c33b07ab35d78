"""Single stories, each on a service of its own, each judged by the same checker.

zombie     a worker is stopped past its lease and goes on while another one has its job
tree       kill -9 of everything in mid-job, then the same command again
flush      the broker forgets everything while fifty jobs wait and one runs
pause      a job pauses, everything is killed and started again, the job is resumed
partition  a worker in mid-job is cut off past its lease; later it is the only one, and must work again
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import psutil

from app.standalone.broker import broker_url, socket_path
from tests.chaos import checker
from tests.chaos.clients import Accepted, Errand
from tests.chaos.drills.steps import stopped
from tests.chaos.quick import LEASE_SECONDS, NO_FENCE
from tests.chaos.run import STACKS, Site, open_site, stack_of
from tests.chaos.stacks import Embedded, Program, Stack
from tests.chaos.writes import refusals

WAITING = 50
KIND = "carried optimizer"
_HINTS = "thaw:cpu"
"""Where hints of jobs wait in the broker."""
_SECONDS = 600.0
T = TypeVar("T")
_LOGGED_SECONDS = 60.0
_BACK_SECONDS = 90.0
"""How soon after a partition a worker must have finished a job."""


class TwoWorkers(Embedded):
    """`thaw up`, and a second worker on the same data folder."""

    def prepare(self) -> None:
        """The second worker finds the broker's socket where `thaw up` puts it."""
        super().prepare()
        variables = {
            "THAW_DATA_DIR": str(self.data_dir),
            "THAW_REDIS_URL": broker_url(socket_path(self.data_dir / "run")),
        }
        command = [sys.executable, "-P", "-m", "worker", "--queues", "cpu,prepare"]
        self.programs.append(Program("worker", lambda: self.spawn("second-worker", command, **variables)))


def zombie(site: Site) -> dict[str, Any]:
    """The late writes are refused, a line of the log says so, and the job succeeds once."""
    _wait(lambda: len(site.stack.find("worker")) == 2)
    job = _create(site)
    _until_kept(site, job)
    victims = site.stack.worker_group(_worker_of(site.stack, job))
    attempt = site.client.look(job)["attempt"]["number"]
    _signal(victims, signal.SIGSTOP)
    site.client.wait(job, lambda found: found["attempt"]["number"] > attempt, seconds=_SECONDS)
    _signal(victims, signal.SIGCONT)
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    judged = _judged(site, [job])
    refused = _refusals(site, job, attempt)
    if not refused:
        judged["violations"].append(f"nothing that attempt {attempt} wrote after its lease was refused")
    return {"attempts": ended["attempt"]["number"], "refused": refused[:1], **judged}


def _refusals(site: Site, job: Accepted, attempt: int) -> list[str]:
    """What the log says of it, which it may do a little later."""
    deadline = time.monotonic() + _LOGGED_SECONDS
    while time.monotonic() < deadline:
        if found := refusals(site.stack.logs(), job.id, attempt):
            return found
        time.sleep(0.2)
    return []


def tree(site: Site) -> dict[str, Any]:
    """The job goes on where it was, to the same weights."""
    job = _create(site)
    _until_kept(site, job)
    _kill_everything(site)
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    attempts = ended["attempt"]["number"]
    return {"attempts": attempts, **_judged(site, [job], uninterrupted(attempts))}


def uninterrupted(attempts: int) -> list[str]:
    """What is wrong if the job of a story was interrupted by nothing."""
    return [] if attempts > 1 else [f"nothing interrupted the job: it ended in attempt {attempts}"]


def flush(site: Site) -> dict[str, Any]:
    """All of them end. Workers stand still while the fifty come: they would take the hints at once."""
    jobs = [_create(site)]
    site.client.wait(jobs[0], lambda found: found["status"] == "running", seconds=_SECONDS)
    with stopped(site.stack.find("worker")):
        jobs += [_create(site, number) for number in range(1, WAITING + 1)]
        with site.stack.broker() as broker:
            waiting, hints = _waiting(site), broker.llen(_HINTS)
            broker.flushall()
    for job in jobs:
        site.client.wait(job, lambda _: False, seconds=_SECONDS)
    facts = {"jobs": len(jobs), "waiting": waiting, "hints": hints}
    return {**facts, **_judged(site, jobs, nothing_to_forget(waiting=waiting, hints=hints))}


def _waiting(site: Site) -> int:
    """How many jobs do."""
    (row,) = site.stack.evidence().rows("SELECT count(*) AS count FROM jobs WHERE status = 'queued'")
    return int(row["count"])


def nothing_to_forget(*, waiting: int, hints: int) -> list[str]:
    """What is wrong if a broker that forgets everything costs nobody a hint."""
    few = [f"only {waiting} jobs waited instead of {WAITING}"] if waiting < WAITING else []
    return few if hints else [*few, "no hint was waiting that the broker could forget"]


def pause(site: Site) -> dict[str, Any]:
    """It goes on exactly where it paused."""
    job = _create(site)
    _until_kept(site, job)
    granted = site.client.do(job, "pause") == HTTPStatus.OK
    paused = site.client.wait(job, lambda found: found["status"] == "paused", seconds=_SECONDS)
    _kill_everything(site)
    found = site.client.look(job)
    site.client.do(job, "resume")
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    attempts, statuses = ended["attempt"]["number"], (paused["status"], found["status"])
    return {
        "paused": paused["status"],
        "after the restart": found["status"],
        "attempts": attempts,
        **_judged(site, [job], [*not_paused(*statuses, granted=granted), *uninterrupted(attempts)]),
    }


def not_paused(before: str, after: str, *, granted: bool) -> list[str]:
    """What is wrong if the job did not pause, or not over the restart."""
    found = [] if granted else ["its pause was not granted"]
    if (before, after) != ("paused", "paused"):
        found.append(f"it was {before} before and {after} after the restart, instead of paused")
    return found


def partition(site: Site) -> dict[str, Any]:
    """Another worker ends the job.

    The servers forget their connections meanwhile, as if they had been started again; who is cut off never hears of it.
    """
    _wait(lambda: len(site.stack.find("worker")) == 2)
    job = _create(site)
    _until_kept(site, job)
    worker = _worker_of(site.stack, job)
    attempt = site.client.look(job)["attempt"]["number"]
    others = [each for each in site.stack.find("worker") if each.pid != worker.pid]
    with _link_of(site.stack, worker).unplugged():
        site.client.wait(job, lambda found: found["attempt"]["number"] > attempt, seconds=_SECONDS)
        for proxy in site.stack.proxies.values():
            proxy.cut()
        ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
        time.sleep(LEASE_SECONDS)
    for other in others:
        _signal(site.stack.worker_group(other), signal.SIGSTOP)
    back = _create(site, 1)
    began = time.monotonic()
    site.client.wait(back, lambda _: False, seconds=_SECONDS)
    seconds = time.monotonic() - began
    attempts = ended["attempt"]["number"]
    judged = _judged(site, [job, back], uninterrupted(attempts))
    if seconds > _BACK_SECONDS:
        judged["violations"].append(f"a worker was of no use for {seconds:.0f} s after it was cut off")
    return {"attempts": attempts, "back after seconds": round(seconds, 1), **judged}


def _link_of(stack: Stack, worker: psutil.Process) -> Any:
    """The link of the namespace that this worker runs in: workers and links are made in one order."""
    programs = [program.process for program in stack.programs if program.target == "worker"]
    return stack.links[[process is not None and process.pid for process in programs].index(worker.pid)]


# === All of them ===


@dataclass(frozen=True)
class Story:
    """What is told, and on which stacks."""

    tell: Callable[[Site], dict[str, Any]]
    stacks: tuple[str, ...] = STACKS
    environment: Mapping[str, str] | None = None
    needs_two_workers: bool = False
    needs_namespaces: bool = False


SCENARIOS: Mapping[str, Story] = {
    "zombie": Story(zombie, environment=NO_FENCE, needs_two_workers=True),
    "tree": Story(tree),
    "flush": Story(flush),
    "pause": Story(pause),
    "partition": Story(partition, stacks=("production",), needs_namespaces=True),
}


def play(name: str, folder: Path, *, stack: str, namespaces: bool = False) -> dict[str, Any]:
    """One of them, from the start of the service to the verdict. Raises `ValueError` for a stack that it is not for."""
    story = SCENARIOS[name]
    if stack not in story.stacks:
        message = f"The scenario '{name}' is for {' and '.join(story.stacks)}, not for {stack}; give another --stack."
        raise ValueError(message)
    with open_site(_stack(story, stack, folder / "service", namespaces=namespaces), folder, [KIND]) as site:
        return {"scenario": name, "stack": stack, **story.tell(site)}


def _stack(story: Story, name: str, folder: Path, *, namespaces: bool) -> Stack:
    if story.needs_two_workers and name == "embedded":
        return TwoWorkers(folder, story.environment or {})
    return stack_of(name, folder, namespaces=namespaces or story.needs_namespaces, environment=story.environment)


# === Steps ===


def _create(site: Site, number: int = 0) -> Accepted:
    errand = Errand(number=number, kind=KIND, wish="finish", after_seconds=0, rest_seconds=0)
    return site.create(errand, f"story-{number}", site.client)


def _until_kept(site: Site, job: Accepted) -> None:
    """Until there is something to go on from."""
    evidence = site.stack.evidence()
    query = "SELECT id FROM checkpoints WHERE job_id = ? AND kind = 'resume'"
    _wait(lambda: evidence.rows(query, job.id))


def _kill_everything(site: Site) -> None:
    """At once; what keeps the stack starts it again."""
    before = [program.starts for program in site.stack.programs]
    _signal(site.stack.family(), signal.SIGKILL)
    _wait(lambda: all(now.starts > then for now, then in zip(site.stack.programs, before, strict=True)))
    site.stack.wait_until_ready()


def _worker_of(stack: Stack, job: Accepted) -> psutil.Process:
    """The worker whose child works in this job's folder, once there is one."""
    return _wait(lambda: _working_on(stack, job))


def _working_on(stack: Stack, job: Accepted) -> psutil.Process | None:
    for child in stack.find("child"):
        with contextlib.suppress(psutil.Error):
            if job.id in child.cwd():
                return child.parents()[1]
    return None


def _judged(site: Site, jobs: list[Accepted], told: Sequence[str] = ()) -> dict[str, Any]:
    """The checker's verdict, and what was `told` against the story itself."""
    verdict = checker.check(site.stack.evidence(), jobs, site.references)
    verdict.violations += told
    return verdict.summary()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            process.send_signal(int(number))


def _wait(condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + _SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)
    return found
