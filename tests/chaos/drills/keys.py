"""One Idempotency-Key, many requests at once; and requests whose API is killed, sent again with the same key.

    same key, same body, at once     one job; 201 with its answer, or 409 while the first is being answered
    same key, another body           422
    the API is killed in between     the same key again: one job, be it that of the first try

An API and its broker, without workers: the jobs wait for files that nobody checks. A key that a killed API leaves taken
is free again after a minute, so those requests are all sent again at the end.
"""

import asyncio
import itertools
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx2
import redis

from app.standalone.broker import broker_command, find_broker_binary, socket_path
from tests.chaos import kinds
from tests.chaos.clients import JOBS, KEY, Client, History
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, at_least, exactly
from tests.chaos.evidence import Evidence, Folder, parsed
from tests.chaos.stacks import Program, Stack, free_port
from tests.servers import Postgres, postgres_folder

AT_ONCE = 32
KILLS_PER_KEY = 0.25
"""So many kills for each key of the first part."""
IN_A_KILL = 8
"""Requests that are under way when the API is killed."""
_RETRY_SECONDS = 0.5
_LONGEST_SECONDS = 180.0


class LoneApi(Stack):
    """One API and the broker; SQLite."""

    targets: ClassVar = ("api", "broker")

    def prepare(self) -> None:
        """The broker is where `thaw up` would have it."""
        self.data_dir = self.folder / "data"
        for folder in (self.data_dir, self.data_dir / "run", self.data_dir / "broker"):
            folder.mkdir()
        port = free_port()
        self.urls.append(f"http://127.0.0.1:{port}")
        variables = {
            "THAW_DATA_DIR": str(self.data_dir),
            "THAW_PORT": str(port),
            "THAW_API_KEY": self.api_key,
            "THAW_REDIS_URL": f"redis+socket://{self._socket}",
            **self.database(),
        }
        command = broker_command(find_broker_binary(), socket_file=self._socket, folder=self.data_dir / "broker")
        self.programs += [
            Program("broker", lambda: self.spawn("broker", command)),
            Program("api", lambda: self.spawn("api", [sys.executable, "-P", "-m", "app.main"], **variables)),
        ]

    @property
    def _socket(self) -> Path:
        return socket_path(self.data_dir / "run")

    def database(self) -> dict[str, str]:
        """Where it is; nothing: the API makes one in its folder."""
        return {}

    def broker(self) -> "redis.Redis":
        """Through its socket."""
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=5)

    def evidence(self) -> Evidence:
        """SQLite's file."""
        return Evidence(self.data_dir / "thaw.db", Folder(self.data_dir / "artifacts"))


class LoneApiOnPostgres(LoneApi):
    """The same on PostgreSQL."""

    def database(self) -> dict[str, str]:
        """A server of its own."""
        folder = postgres_folder()
        if folder is None:
            message = "PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql."
            raise RuntimeError(message)
        self.postgres = Postgres(folder)
        self.postgres.start()
        return {"THAW_DATABASE_URL": self.postgres.create_database("thaw")}

    def evidence(self) -> Evidence:
        """Through its socket."""
        return Evidence(f"host={self.postgres.folder} dbname=thaw user=thaw", Folder(self.data_dir / "artifacts"))

    def stop(self) -> None:
        """The database's folder, too."""
        super().stop()
        self.postgres.stop()


DATABASES = {"embedded": LoneApi, "production": LoneApiOnPostgres}


@dataclass(frozen=True)
class Desk:
    """An API, and two files of which jobs can be made."""

    stack: Stack
    model: str
    training_file: str

    def body(self, key: str, seed: int = 0) -> dict[str, object]:
        """A job that says by which key it was created; `seed` makes another one of it."""
        body = kinds.body("tiny", model=self.model, training_file=self.training_file, metadata={KEY: key})
        return {**body, "seed": seed}

    @property
    def headers(self) -> dict[str, str]:
        """Without a key."""
        return {"Authorization": f"Bearer {self.stack.api_key}"}


def play(exercise: Exercise) -> Findings:
    """So many keys, and a quarter as many kills."""
    with _desk(exercise) as desk:
        races = asyncio.run(_all_races(desk, exercise.times))
        killed = asyncio.run(_all_kills(desk, exercise.rng(), max(1, round(exercise.times * KILLS_PER_KEY))))
        rows = desk.stack.evidence().rows("SELECT id, metadata FROM jobs")
    by_key = Counter(parsed(row["metadata"])[KEY] for row in rows)
    keys = [race.key for race in races] + list(killed.answers)
    told = {race.key: race.jobs for race in races} | killed.answers
    ids = {row["id"]: parsed(row["metadata"])[KEY] for row in rows}
    figures = {
        "keys that made one job": exactly(sum(by_key[key] == 1 for key in keys), len(keys)),
        "keys of which all answers named that job": exactly(
            sum({ids.get(job) for job in told[key]} == {key} and len(told[key]) == 1 for key in keys), len(keys)
        ),
        "jobs": exactly(len(rows), len(keys)),
        "other answers than 201 and 409": exactly(sum(race.others for race in races), 0),
        "answers 409 in flight": at_least(sum(race.in_flight for race in races), 1),
        "requests after all others that were answered with 201": exactly(
            sum(race.answered for race in races), len(races)
        ),
        "other bodies that were refused with 422": exactly(sum(race.refused for race in races), len(races)),
        "requests that were broken off by a kill": at_least(killed.broken, killed.kills),
        "keys that were never answered after a kill": exactly(len(killed.unanswered), 0),
    }
    facts = {
        "requests at once": AT_ONCE,
        "answers 201": sum(race.created for race in races),
        "of them, replayed": sum(race.replayed for race in races),
        "kills": killed.kills,
        "requests of those that had made a job before": killed.made_before,
        "longest seconds until such a key was answered": round(killed.longest_seconds, 1),
        "never answered": killed.unanswered,
    }
    return Findings(figures, facts)


@contextmanager
def _desk(exercise: Exercise) -> Iterator[Desk]:
    stack = DATABASES[exercise.stack](exercise.folder / "service")
    stack.folder.mkdir(parents=True)
    try:
        making = kinds.make_inputs(stack.folder)
        stack.start()
        assert making.wait(120) == 0, "the files of the jobs were not made; see above why"
        client = Client(stack.urls, stack.api_key, History(exercise.folder / "history.jsonl"), exercise.rng())
        files = [client.upload(stack.folder / name) for name in ("source.keras", "digits.npz")]
        client.close()
        yield Desk(stack, *files)
    finally:
        stack.stop()


# === Many at once ===


@dataclass
class Race:
    """What all requests with one key were told."""

    key: str
    jobs: set[str] = field(default_factory=set)
    created: int = 0
    replayed: int = 0
    in_flight: int = 0
    others: int = 0
    answered: bool = False
    """Whether the request after all others was: by then nothing is in flight."""
    refused: bool = False
    """Whether a request with another body was, as it must be."""

    def note(self, answers: Sequence[httpx2.Response]) -> None:
        """What was answered to those at once, and last of all to the one after them."""
        for answer in answers:
            self.created += answer.status_code == 201
            self.replayed += answer.headers.get("Idempotency-Replayed") == "true"
            self.in_flight += answer.status_code == 409
            self.others += answer.status_code not in {201, 409}
            if answer.status_code == 201:
                self.jobs.add(answer.json()["id"])
        self.answered = answers[-1].status_code == 201


async def _all_races(desk: Desk, count: int) -> list[Race]:
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx2.AsyncClient(
        base_url=desk.stack.urls[0], headers=desk.headers, trust_env=False, timeout=60, limits=limits
    ) as client:
        return [await _race(desk, client, f"race-{number}") for number in range(count)]


async def _race(desk: Desk, client: httpx2.AsyncClient, key: str) -> Race:
    race = Race(key)
    answers = await asyncio.gather(*(_post(desk, client, key) for _ in range(AT_ONCE)))
    race.note([*answers, await _post(desk, client, key)])
    race.refused = (await _post(desk, client, key, seed=1)).status_code == 422
    return race


async def _post(desk: Desk, client: httpx2.AsyncClient, key: str, *, seed: int = 0) -> httpx2.Response:
    return await client.post(JOBS, json=desk.body(key, seed), headers={"Idempotency-Key": key})


# === An API that dies ===


@dataclass
class Killed:
    """What became of requests whose API was killed."""

    answers: dict[str, set[str]] = field(default_factory=dict)
    """By key: the jobs that were named, before the kill and after."""
    kills: int = 0
    broken: int = 0
    made_before: int = 0
    """Of the broken ones, those that had made their job already: the answer is all that was lost."""
    longest_seconds: float = 0.0
    unanswered: dict[str, int] = field(default_factory=dict)
    """By key: the status of the last of many answers, none of which was a 201."""


async def _all_kills(desk: Desk, rng: random.Random, count: int) -> Killed:
    killed = Killed()
    seconds = await _usual_seconds(desk, killed)
    for _ in range(count):
        await _kill_during(desk, killed, after_seconds=rng.uniform(0, seconds))
        killed.kills += 1
        await asyncio.to_thread(desk.stack.wait_until_ready)
    rows = desk.stack.evidence().rows("SELECT metadata FROM jobs")
    made = {parsed(row["metadata"])[KEY] for row in rows}
    left = [key for key, jobs in killed.answers.items() if not jobs]
    killed.broken, killed.made_before = len(left), sum(key in made for key in left)
    await _ask_again(desk, killed)
    return killed


async def _usual_seconds(desk: Desk, killed: Killed) -> float:
    """How long such a crowd takes when nobody kills anything; the second one, when all is warm."""
    seconds = 0.0
    for name in ("cold", "warm"):
        started = time.monotonic()
        await _crowd(desk, killed, [f"{name}-{number}" for number in range(IN_A_KILL)])
        seconds = time.monotonic() - started
    return seconds


async def _kill_during(desk: Desk, killed: Killed, *, after_seconds: float) -> None:
    (api,) = desk.stack.find("api")
    keys = [f"killed-{killed.kills}-{number}" for number in range(IN_A_KILL)]
    crowd = asyncio.create_task(_crowd(desk, killed, keys))
    await asyncio.sleep(after_seconds)
    steps.send([api], signal.SIGKILL)
    await crowd
    await asyncio.to_thread(api.wait, 10)


async def _crowd(desk: Desk, killed: Killed, keys: Sequence[str]) -> None:
    """One request with each key; what is answered is noted."""
    async with httpx2.AsyncClient(
        base_url=desk.stack.urls[0], headers=desk.headers, trust_env=False, timeout=60
    ) as client:

        async def post(key: str) -> None:
            jobs = killed.answers.setdefault(key, set())
            with suppress(httpx2.TransportError):
                answer = await _post(desk, client, key)
                if answer.status_code == 201:
                    jobs.add(answer.json()["id"])

        await asyncio.gather(*(post(key) for key in keys))


async def _ask_again(desk: Desk, killed: Killed) -> None:
    """Every key, until it has an answer; those that get none in time are `unanswered`."""
    async with httpx2.AsyncClient(
        base_url=desk.stack.urls[0], headers=desk.headers, trust_env=False, timeout=60
    ) as client:

        async def ask(key: str) -> None:
            started = time.monotonic()
            for _ in itertools.takewhile(lambda _: time.monotonic() - started < _LONGEST_SECONDS, itertools.count()):
                answer = await _post(desk, client, key)
                if answer.status_code == 201:
                    killed.answers[key].add(answer.json()["id"])
                    break
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                killed.unanswered[key] = answer.status_code
            killed.longest_seconds = max(killed.longest_seconds, time.monotonic() - started)

        await asyncio.gather(*(ask(key) for key in killed.answers))


DRILL = Drill(
    promise="a POST is carried out exactly once for each Idempotency-Key",
    play=play,
    times=200,
    stacks=("embedded", "production"),
)
