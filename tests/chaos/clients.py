"""Clients: they create jobs, poll them, cancel, pause and resume some, and remember every answer that they got.

A client tries again whatever may be tried again: refused or broken connections, 5xx, a key that is still in flight.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2

from tests.chaos import kinds

JOBS = "/v1/fine_tuning/jobs"
KEY = "chaos_key"
"""Of a job's metadata: the Idempotency-Key that it was created with."""
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

Wish = Literal["finish", "cancel", "pause", "leave paused"]

_POLL_SECONDS = 0.3
_ROOM_SECONDS = 1.0
"""Until there may be room for a job again that was set aside, because a disk was full."""
_PATIENCE_SECONDS = 300.0
"""Longest time that one request is tried again."""


@dataclass(frozen=True)
class Errand:
    """A job that somebody will create, and what else they will ask of it. Drawn from the seed."""

    number: int
    kind: str
    wish: Wish
    after_seconds: float
    """How long after the job began to run the wish is uttered; negative: at once, while it waits."""
    rest_seconds: float
    """How long a pause lasts."""


def draw(rng: random.Random, *, jobs: int, names: Sequence[str]) -> list[Errand]:
    """So many errands."""
    wishes: list[Wish] = ["finish", "cancel", "pause", "leave paused"]
    return [
        Errand(
            number=number,
            kind=names[number % len(names)],
            wish=rng.choices(wishes, weights=[60, 15, 20, 5])[0],
            after_seconds=rng.uniform(-1, 4),
            rest_seconds=rng.uniform(0, 3),
        )
        for number in range(jobs)
    ]


@dataclass
class Accepted:
    """A job that was answered with 201."""

    id: str
    key: str
    errand: Errand
    ended: str | None = None
    """The status in which its client saw it last: one that is never left, or `paused` if that is what it wanted."""
    cancel_answer: str | None = None
    """The status in the answer to its cancel, if that was 200."""


@dataclass
class History:
    """What all clients were told; written to a file as it comes."""

    path: Path
    accepted: list[Accepted] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, what: str, **facts: object) -> None:
        """A line of the file."""
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps({"at": round(time.time(), 3), "what": what, **facts}) + "\n")

    def accept(self, job: Accepted) -> None:
        """A 201."""
        with self._lock:
            self.accepted.append(job)
        self.tell("accepted", id=job.id, key=job.key, kind=job.errand.kind, wish=job.errand.wish)


class ServiceAway(Exception):  # noqa: N818 (named for what happened)
    """The service did not answer a request for minutes."""


@dataclass
class Client:
    """Somebody with the key, who knows all addresses."""

    urls: Sequence[str]
    api_key: str
    history: History
    rng: random.Random

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._http = httpx2.Client(headers=headers, trust_env=False, timeout=20)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def ask(self, method: str, path: str, **options: Any) -> "httpx2.Response":
        """The first answer that is no passing failure. Raises `ServiceAway` after minutes of those."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, self.rng.choice(self.urls) + path, **options)
            except httpx2.HTTPError:
                time.sleep(0.2)
                continue
            if answer.status_code < 500 and not _in_flight(answer):
                return answer
            time.sleep(0.3)
        message = f"{method} {path} was not answered for {_PATIENCE_SECONDS:.0f} s"
        raise ServiceAway(message)

    def upload(self, path: Path) -> str:
        """The id of the file."""
        files = {"file": (path.name, path.read_bytes())}
        answer = self.ask("POST", "/v1/files", files=files, data={"purpose": "fine-tune"})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def create(self, errand: Errand, *, key: str, model: str, training_file: str) -> Accepted:
        """A job, for which a 201 was received."""
        body = kinds.body(errand.kind, model=model, training_file=training_file, metadata={KEY: key})
        answer = self.ask("POST", JOBS, json=body, headers={"Idempotency-Key": key})
        if answer.status_code != 201:
            message = f"a job was refused with {answer.status_code}: {answer.text}"
            raise AssertionError(message)
        job = Accepted(answer.json()["id"], key, errand)
        self.history.accept(job)
        return job

    def look(self, job: Accepted) -> dict[str, Any]:
        """The job as it is now."""
        answer = self.ask("GET", f"{JOBS}/{job.id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, job: Accepted, until: Callable[[dict[str, Any]], bool], *, seconds: float) -> dict[str, Any]:
        """Poll until it is so, or the job has ended, or time is up. Meanwhile jobs that were set aside are resumed."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.look(job)
            if until(found) or found["status"] in TERMINAL or time.monotonic() > deadline:
                return found
            self._resume_if_set_aside(job, found)
            time.sleep(_POLL_SECONDS)

    def _resume_if_set_aside(self, job: Accepted, found: dict[str, Any]) -> None:
        """As somebody would who has made room; of every second job, the service has to notice by itself."""
        if found["status"] == "paused" and found["set_aside"] and job.errand.number % 2:
            time.sleep(_ROOM_SECONDS)
            self.do(job, "resume")

    def do(self, job: Accepted, what: str) -> int:
        """Cancel, pause or resume it; the status of the answer."""
        answer = self.ask("POST", f"{JOBS}/{job.id}/{what}")
        self.history.tell(what, id=job.id, answer=answer.status_code)
        if answer.status_code not in {200, 409}:
            message = f"{what} of {job.id} was answered with {answer.status_code}: {answer.text}"
            raise AssertionError(message)
        if what == "cancel" and answer.status_code == 200:
            job.cancel_answer = answer.json()["status"]
        return answer.status_code

    def see_through(self, job: Accepted, *, seconds: float) -> None:
        """What the errand asks for, up to the end of the job."""
        errand = job.errand
        if errand.wish != "finish":
            self._utter(job, seconds=seconds)
        paused = errand.wish == "leave paused"
        last = self.wait(job, lambda found: paused and found["status"] == "paused", seconds=seconds)
        job.ended = last["status"] if last["status"] in TERMINAL or paused else None
        self.history.tell("ended", id=job.id, status=last["status"], attempt=last["attempt"]["number"])

    def _utter(self, job: Accepted, *, seconds: float) -> None:
        if job.errand.after_seconds >= 0:
            self.wait(job, lambda found: found["status"] == "running", seconds=seconds)
            time.sleep(job.errand.after_seconds)
        if job.errand.wish == "cancel":
            self.do(job, "cancel")
            return
        self.do(job, "pause")
        if job.errand.wish == "pause":
            self.wait(job, lambda found: found["status"] == "paused", seconds=seconds)
            time.sleep(job.errand.rest_seconds)
            self.do(job, "resume")


def _in_flight(answer: "httpx2.Response") -> bool:
    return answer.status_code == 409 and "still being answered" in answer.text
