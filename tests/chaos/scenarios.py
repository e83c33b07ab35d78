"""Single stories, each on a service of its own, each judged by the same checker.

zombie   a worker is stopped past its lease and goes on while another one has its job
tree     kill -9 of everything in mid-job, then the same command again
flush    the broker forgets everything while fifty jobs wait and one runs
pause    a job pauses, everything is killed and started again, the job is resumed
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from app.standalone.broker import broker_url, socket_path
from tests.chaos import checker
from tests.chaos.clients import Accepted, Errand
from tests.chaos.run import Site, open_site
from tests.chaos.stacks import Embedded, Program, Stack

WAITING = 50
KIND = "carried optimizer"
_SECONDS = 600.0


class TwoWorkers(Embedded):
    """`thaw up`, and a second worker on the same data folder. Neither ends its job by itself when it is late.

    So only the database keeps a worker that was stopped from writing.
    """

    def prepare(self) -> None:
        """The second worker finds the broker's socket where `thaw up` puts it."""
        super().prepare()
        self.environment = {**self.environment, "THAW_FENCE_SECONDS": "3600"}
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
    _signal(victims, signal.SIGSTOP)
    site.client.wait(job, lambda found: found["attempt"]["number"] == 2, seconds=_SECONDS)
    _signal(victims, signal.SIGCONT)
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    _wait(lambda: _refusals(site, job))
    return {"attempts": ended["attempt"]["number"], "refused": _refusals(site, job)[0], **_judged(site, [job])}


def _refusals(site: Site, job: Accepted) -> list[str]:
    lines = site.stack.logs().splitlines()
    return [line for line in lines if "lease lost" in line and job.id in line and "no longer holds" in line]


def tree(site: Site) -> dict[str, Any]:
    """The job goes on where it was, to the same weights."""
    job = _create(site)
    _until_kept(site, job)
    _kill_everything(site)
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    return {"attempts": ended["attempt"]["number"], **_judged(site, [job])}


def flush(site: Site) -> dict[str, Any]:
    """All of them end."""
    jobs = [_create(site, number) for number in range(WAITING + 1)]
    site.client.wait(jobs[0], lambda found: found["status"] == "running", seconds=_SECONDS)
    with site.stack.broker() as broker:
        broker.flushall()
    for job in jobs:
        site.client.wait(job, lambda _: False, seconds=_SECONDS)
    return {"jobs": len(jobs), **_judged(site, jobs)}


def pause(site: Site) -> dict[str, Any]:
    """It goes on exactly where it paused."""
    job = _create(site)
    _until_kept(site, job)
    site.client.do(job, "pause")
    paused = site.client.wait(job, lambda found: found["status"] == "paused", seconds=_SECONDS)
    _kill_everything(site)
    found = site.client.look(job)
    site.client.do(job, "resume")
    ended = site.client.wait(job, lambda _: False, seconds=_SECONDS)
    return {
        "paused": paused["status"],
        "after the restart": found["status"],
        "attempts": ended["attempt"]["number"],
        **_judged(site, [job]),
    }


SCENARIOS: Mapping[str, tuple[type[Stack], Callable[[Site], dict[str, Any]]]] = {
    "zombie": (TwoWorkers, zombie),
    "tree": (Embedded, tree),
    "flush": (Embedded, flush),
    "pause": (Embedded, pause),
}


def play(name: str, folder: Path) -> dict[str, Any]:
    """One of them, from the start of the service to the verdict."""
    kind_of_stack, story = SCENARIOS[name]
    stack = kind_of_stack(folder / "service")
    with open_site(stack, folder, [KIND]) as site:
        return {"scenario": name, **story(site)}


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
    before = site.stack.programs[0].starts
    _signal(site.stack.family(), signal.SIGKILL)
    _wait(lambda: site.stack.programs[0].starts > before)
    site.stack.wait_until_ready()


def _worker_of(stack: Stack, job: Accepted) -> psutil.Process:
    """The worker whose child works in this job's folder."""
    for child in stack.find("child"):
        if job.id in child.cwd():
            return child.parents()[1]
    message = f"no process works on {job.id}"
    raise AssertionError(message)


def _judged(site: Site, jobs: list[Accepted]) -> dict[str, Any]:
    return checker.check(site.stack.evidence(), jobs, site.references).summary()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            process.send_signal(int(number))


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)
