"""Fifty readers of event streams, whose connections break off at random, while APIs are killed and jobs run.

Each reader follows one job from its first event to `completed`, with `Last-Event-ID` on whichever API answers; then it
takes another one. What it has read must be the job's history: no gap, no number twice, nothing else.
"""

import asyncio
import json
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import httpx2

from tests.chaos.clients import JOBS, Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_least, exactly
from tests.chaos.run import Site
from tests.chaos.stacks import Stack

READERS = 50
KINDS = ("carried optimizer", "dropout")
_OPEN = 3
"""Jobs that wait or run at any time."""
_MEAN_SECONDS = 2.0
"""How long a reader stays connected, on average."""
_PAUSE_SECONDS = 3.0
"""From an API that is back to the next kill, on average."""
_GLANCE_SECONDS = 0.2
_GIVEN_UP_SECONDS = 300.0
"""A reader that has heard nothing new for so long is stuck."""


@dataclass
class Reading:
    """What one reader has read of one job."""

    job: str
    numbers: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    connections: int = 0
    over: bool = False
    """Whether it was told that there is nothing more: 204."""
    problem: str = ""


def play(exercise: Exercise) -> Findings:
    """So many kills."""
    with exercise.site(*KINDS) as site:
        shop = _Shop(site)
        reading = _Audience(site.stack, shop, exercise.rng("readers"))
        with shop, reading:
            _kill_apis(site.stack, exercise.rng("kills"), exercise.times)
            shop.close()
        verdict = steps.verdict(site, shop.jobs)
        rows = site.stack.evidence().rows("SELECT job_id, number, type FROM events ORDER BY job_id, number")
    written: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        written.setdefault(row["job_id"], []).append((row["number"], row["type"]))
    return _findings(reading.readings, written, exercise.times, verdict.violations)


def _findings(
    readings: Sequence[Reading], written: Mapping[str, list[tuple[int, str]]], kills: int, violations: Sequence[str]
) -> Findings:
    numbers = [reading.numbers for reading in readings]
    figures = {
        "gaps": exactly(sum(later > earlier + 1 for each in numbers for earlier, later in _pairs(each)), 0),
        "numbers that came twice": exactly(
            sum(later <= earlier for each in numbers for earlier, later in _pairs(each)), 0
        ),
        "readings that are the job's history": exactly(
            sum(list(zip(each.numbers, each.types, strict=True)) == written[each.job] for each in readings),
            len(readings),
        ),
        "readings that ended with `completed` and 204": exactly(
            sum(each.over and each.types[-1:] == ["completed"] for each in readings), len(readings)
        ),
        "readings": at_least(len(readings), READERS),
        "connections": at_least(sum(each.connections for each in readings), 2 * len(readings)),
    }
    facts = {
        "kills of APIs": kills,
        "events read": sum(map(len, numbers)),
        "jobs": len({reading.job for reading in readings}),
    }
    return Findings(figures, facts, [*violations, *(each.problem for each in readings if each.problem)])


def _pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Each with the one before it; before the first comes 0."""
    return list(zip([0, *numbers], numbers, strict=False))


def _kill_apis(stack: Stack, rng: random.Random, times: int) -> None:
    over = threading.Event()
    for _ in range(times):
        stack.wait_until_ready()
        over.wait(rng.expovariate(1 / _PAUSE_SECONDS))
        apis = steps.until(lambda: stack.find("api"))
        steps.send([rng.choice(apis)], signal.SIGKILL)
    stack.wait_until_ready()


# === Jobs ===


class _Shop:
    """Always has some jobs open, until it is closed."""

    def __init__(self, site: Site) -> None:
        self.jobs: list[Accepted] = []
        self._site = site
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="shop", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """No new ones; wait for the end of those that there are."""
        self._closed.set()
        self._thread.join()
        if self.error:
            raise self.error

    def __exit__(self, *error: object) -> None:
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether there will be no more."""
        return self._closed.is_set()

    def _keep(self) -> None:
        try:
            while not self._closed.wait(_GLANCE_SECONDS):
                waiting = [job for job in self.jobs[-_OPEN:] if not self._has_ended(job)]
                if len(waiting) < _OPEN:
                    kind = KINDS[len(self.jobs) % len(KINDS)]
                    self.jobs.append(steps.submit(self._site, kind, f"stream-{len(self.jobs)}"))
            steps.see_ended(self._site, self.jobs)
        except BaseException as error:  # noqa: BLE001 (the edge of the thread: `close` raises it)
            self.error = error

    def _has_ended(self, job: Accepted) -> bool:
        return bool(self._site.client.look(job)["status"] == "succeeded")


# === Readers ===


class _Audience:
    """All readers, in one thread."""

    def __init__(self, stack: Stack, shop: _Shop, rng: random.Random) -> None:
        self.readings: list[Reading] = []
        self._stack, self._shop, self._rng = stack, shop, rng
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read_all()), name="audience", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._thread.join()

    async def _read_all(self) -> None:
        headers = {"Authorization": f"Bearer {self._stack.api_key}", "Accept": "text/event-stream"}
        limits = httpx2.Limits(max_connections=2 * READERS)
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30, limits=limits) as client:
            await asyncio.gather(*(self._read_jobs(client) for _ in range(READERS)))

    async def _read_jobs(self, client: httpx2.AsyncClient) -> None:
        """One after the other, as long as there are new ones; at least one."""
        while not self._shop.jobs:  # noqa: ASYNC110 (another thread makes them)
            await asyncio.sleep(_GLANCE_SECONDS)
        seen: set[str] = set()
        while job := next((each.id for each in reversed(self._shop.jobs) if each.id not in seen), None):
            seen |= {each.id for each in self._shop.jobs}
            reading = Reading(job)
            self.readings.append(reading)
            try:
                await asyncio.wait_for(self._follow(client, reading), _GIVEN_UP_SECONDS)
            except TimeoutError:
                reading.problem = f"a reader of {job} was stuck after {reading.numbers[-1:]}"
            while not self._shop.closed and all(each.id in seen for each in self._shop.jobs):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(_GLANCE_SECONDS)

    async def _follow(self, client: httpx2.AsyncClient, reading: Reading) -> None:
        """Connect again and again until there is nothing more."""
        while not reading.over:
            reading.connections += 1
            stay = self._rng.expovariate(1 / _MEAN_SECONDS)
            with suppress(httpx2.TransportError, TimeoutError):
                await asyncio.wait_for(self._connect(client, reading), stay)
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def _connect(self, client: httpx2.AsyncClient, reading: Reading) -> None:
        url = f"{self._rng.choice(self._stack.urls)}{JOBS}/{reading.job}/events"
        async with client.stream("GET", url, headers={"Last-Event-ID": str((reading.numbers or [0])[-1])}) as response:
            if response.status_code == 204:
                reading.over = True
            if response.status_code != 200:
                return
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    reading.numbers.append(event["number"])
                    reading.types.append(event["type"])


DRILL = Drill(
    promise="an event stream that breaks off is taken up again without a gap and without repetition",
    play=play,
    times=20,
    stacks=("production", "embedded"),
)
