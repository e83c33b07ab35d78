"""Thousands of tiny jobs through `thaw up`, some of them disturbed: does anything grow?

Memory, open files and threads of the API and of the worker are read between jobs, when nothing is trained, and straight
lines are laid through them. What grows only while it warms up (imports, pools, compiled statements, and the holes in
the allocator's arenas, which fill over some hundred jobs) is left out: the lines begin half-way. Open files and threads
come and go (connections, pools), so what counts is the fewest there were: what leaks never goes, and lifts that.
SQLite's connections are counted by themselves: a pool keeps as many as were ever needed at once. Disturbances are such
as leave API and worker alive: training processes are killed, the broker is flushed, and killed. A zombie is a process
that has ended and that nobody has asked for its end for some seconds.
"""

import contextlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.storage.database import SQLITE_POOL
from tests.chaos.acts import Target
from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Figure, Findings, at_least, at_most, exactly, slope
from tests.chaos.run import Site
from tests.chaos.stacks import Stack

PROGRAMS: tuple[Target, ...] = ("api", "worker")
DATABASE = "thaw.db"
"""Its file, and the beginning of the names of those beside it."""
BATCH = 10
"""Jobs that are submitted at once; then everything is looked at."""
MIB_PER_HOUR = 1.0
WARM_PART = 0.5
"""Of all looks, those that the lines leave out."""
_TENTHS = 10
FAULTS = ("child", "flush", "broker", None)
"""What happens during a batch, in turn."""
_FAULT_SECONDS = 2.0
MOST = 0.5
_ZOMBIE_SECONDS = 5.0


@dataclass(frozen=True)
class Look:
    """One program at one moment."""

    at: float
    """Seconds since the first look."""
    jobs: int
    program: Target
    pid: int
    rss_mib: float
    files: int
    """Open ones, those of the database left out."""
    connections: int
    """To the database."""
    threads: int


@dataclass
class Faults:
    """How often each fault was tried, and how often there was something for it to hit."""

    tried: "Counter[str]" = field(default_factory=Counter)
    hit: "Counter[str]" = field(default_factory=Counter)

    def note(self, fault: str, *, hit: bool) -> None:
        """One of them."""
        self.tried[fault] += 1
        self.hit[fault] += hit

    def figure(self) -> Figure:
        """That most of them disturbed something, or little was shown."""
        return at_least(self.hit.total(), max(1, math.floor(self.tried.total() * MOST) + 1))


def play(exercise: Exercise) -> Findings:
    """So many jobs."""
    rng = exercise.rng()
    jobs: list[Accepted] = []
    zombies: list[str] = []
    faults = Faults()
    with exercise.site("tiny") as site:
        started = time.monotonic()
        looks = list(_look(site.stack, started, 0))
        for fault in itertools.cycle(FAULTS):
            count = min(BATCH, exercise.times - len(jobs))
            jobs += _batch(site, fault, rng, faults, first=len(jobs), count=count)
            zombies += _zombies(site.stack)
            looks += _look(site.stack, started, len(jobs))
            if len(jobs) >= exercise.times:
                break
        verdict = steps.verdict(site, jobs)
    figures: dict[str, Figure] = {
        "jobs that succeeded": exactly(sum(job.ended == "succeeded" for job in jobs), len(jobs)),
        "zombies": exactly(len(zombies), 0),
        "faults that hit something": faults.figure(),
    }
    facts: dict[str, object] = {
        "hours": round(looks[-1].at / 3600, 3),
        "zombies": zombies,
        "faults": {fault: f"{faults.hit[fault]} of {tried} hit" for fault, tried in faults.tried.items()},
    }
    for program in PROGRAMS:
        grown, about = growth([look for look in looks if look.program == program])
        figures |= {f"{program}: {name}": figure for name, figure in grown.items()}
        facts[program] = about
    return Findings(figures, {**facts, "checked": verdict.summary()}, verdict.violations)


def growth(looks: Sequence[Look]) -> tuple[dict[str, Figure], dict[str, object]]:
    """What one program grew by, and what it was like."""
    warm = looks[int(len(looks) * WARM_PART) :]
    middle = len(warm) // 2
    per_hour = slope([(look.at / 3600, look.rss_mib) for look in warm])
    figures = {
        "processes": exactly(len({look.pid for look in looks}), 1),
        "MiB per hour": at_most(per_hour, MIB_PER_HOUR),
        "connections to the database": at_most(max(look.connections for look in looks), SQLITE_POOL["pool_size"]),
        "open files more at the end": at_most(_fewest(warm[middle:], "files") - _fewest(warm[:middle], "files"), 0),
        "threads more at the end": at_most(_fewest(warm[middle:], "threads") - _fewest(warm[:middle], "threads"), 0),
    }
    facts: dict[str, object] = {
        "MiB per 100 jobs": round(slope([(look.jobs / 100, look.rss_mib) for look in warm]), 3),
        "MiB by tenths of the jobs": [
            round(looks[i * (len(looks) - 1) // _TENTHS].rss_mib, 1) for i in range(_TENTHS + 1)
        ],
        "open files": _counted([look.files for look in looks]),
        "connections to the database": _counted([look.connections for look in looks]),
        "threads": _counted([look.threads for look in looks]),
    }
    return figures, facts


def _fewest(looks: Sequence[Look], what: str) -> int:
    return min(int(getattr(look, what)) for look in looks)


def _counted(numbers: Sequence[int]) -> dict[str, int]:
    """How many looks found how many, in order."""
    return {str(number): count for number, count in sorted(Counter(numbers).items())}


# === A batch ===


def _batch(
    site: Site, fault: str | None, rng: random.Random, faults: Faults, *, first: int, count: int
) -> list[Accepted]:
    jobs = [steps.submit(site, "tiny", f"soak-{first + number}") for number in range(count)]
    if fault is not None:
        site.client.wait(jobs[0], lambda found: found["status"] == "running", seconds=steps.PATIENCE_SECONDS)
        time.sleep(rng.uniform(0, _FAULT_SECONDS))
        faults.note(fault, hit=_strike(site.stack, fault))
    steps.see_ended(site, jobs)
    steps.until(lambda: not site.stack.find("child"))
    return jobs


def _strike(stack: Stack, fault: str) -> bool:
    """Whether it hit something: processes, or hints that wait."""
    if fault == "flush":
        waiting = steps.waiting_hints(stack)
        with stack.broker() as broker:
            broker.flushall()
        return waiting > 0
    victims = stack.find("child" if fault == "child" else "broker")
    steps.kill(victims)
    if fault == "broker":
        steps.until(lambda: steps.broker_answers(stack))
    return bool(victims)


# === Looking ===


def _look(stack: Stack, started: float, jobs: int) -> Iterator[Look]:
    for program in PROGRAMS:
        for process in stack.find(program):
            with process.oneshot():
                ours = [Path(file.path).name for file in process.open_files()]
                yield Look(
                    at=time.monotonic() - started,
                    jobs=jobs,
                    program=program,
                    pid=process.pid,
                    rss_mib=process.memory_info().rss / 2**20,
                    files=process.num_fds() - sum(name.startswith(DATABASE) for name in ours),
                    connections=ours.count(DATABASE),
                    threads=process.num_threads(),
                )


def _zombies(stack: Stack) -> list[str]:
    """Those that are still zombies after some seconds."""
    deadline = time.monotonic() + _ZOMBIE_SECONDS
    while (found := [process for process in stack.family() if _is_zombie(process)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"{process.pid}, a child of {process.ppid()}" for process in found]


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_ZOMBIE
    return False


DRILL = Drill(
    promise="API and worker do not grow, however many jobs there are",
    play=play,
    times=5000,
    stacks=("embedded",),
)
