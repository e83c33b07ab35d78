"""When the service may be called ready: the API answers, its parts do, and a worker serves each queue."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TypedDict

import httpx2

from app.domain.errors import ServiceUnavailableError
from app.standalone.logs import tail
from app.standalone.processes import KeptProcess

POLL_SECONDS = 0.2
MAX_DEATHS = 3
"""A program that ended so often before it was ready once does not start at all."""
START_TIMEOUT_SECONDS = 300.0
"""Loading TensorFlow for the first time from a slow disk takes a minute."""

_SAY_AGAIN_SECONDS = 15.0
_ANSWER_SECONDS = 2.0

_log = logging.getLogger("thaw.up")


class Part(TypedDict):
    """A part of the service, as `/readyz` lists it."""

    name: str
    ok: bool
    detail: str
    out_of_room: bool


class LiveWorker(TypedDict):
    """A worker, as `/v1/capabilities` lists it."""

    id: str
    queues: list[str]
    live: bool


Probe = Callable[[], Awaitable[str | None]]
"""`None` when all is well, else what is missing, in words."""


async def until_ready(probe: Probe, programs: Sequence[KeptProcess]) -> None:
    """Wait until nothing is missing; `ServiceUnavailableError` when it never will be."""
    started = said = time.monotonic()
    while (missing := await probe()) is not None:
        for program in programs:
            if program.deaths >= MAX_DEATHS:
                raise ServiceUnavailableError(_does_not_start(program))
        now = time.monotonic()
        if now - started > START_TIMEOUT_SECONDS:
            message = f"Not ready after {START_TIMEOUT_SECONDS:g} s: {missing}"
            raise ServiceUnavailableError(message)
        if now - said > _SAY_AGAIN_SECONDS:
            said = now
            _log.info("still starting: %s", missing)
        await asyncio.sleep(POLL_SECONDS)


def _does_not_start(program: KeptProcess) -> str:
    return (
        f"{program.program.name} does not start: it ended {program.deaths} times. The last lines of "
        f"{program.log.path}:\n{tail(program.log.path)}"
    )


class ApiProbe:
    """Questions to the API of this machine."""

    def __init__(self, url: str, *, key_file: Path, queues: frozenset[str]) -> None:
        # Proxies of the environment are for the internet, not for loopback.
        self._client = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=_ANSWER_SECONDS)
        self._key_file = key_file
        self._queues = queues
        self._disregarded: frozenset[str] = frozenset()
        self.out_of_room: str | None = None
        """What was without room when all else was ready, in words."""

    async def alive(self) -> str | None:
        """Whether it answers at all: then its database is upgraded too."""
        answer = await self._asked("/healthz")
        return answer if isinstance(answer, str) else _refused(answer)

    async def disregard_live_workers(self) -> None:
        """Do not count those who are live now: other machines', or killed a moment ago."""
        self._disregarded = frozenset(worker["id"] for worker in await self._live_workers())

    async def ready(self) -> str | None:
        """Whether all its parts answer, the broker too, and a live worker serves each queue.

        A part without room does not count as missing: through the service people delete what they do not need.
        """
        answer = await self._asked("/readyz")
        if isinstance(answer, str):
            return answer
        failing = _failing_parts(answer)
        if failing is None:
            return _refused(answer)
        if missing := _in_words(part for part in failing if not part["out_of_room"]):
            return missing
        self.out_of_room = _in_words(failing)
        ours = [worker for worker in await self._live_workers() if worker["id"] not in self._disregarded]
        unserved = self._queues - {queue for worker in ours for queue in worker["queues"]}
        return f"no worker serves {', '.join(sorted(unserved))} yet" if unserved else None

    async def _asked(self, path: str) -> httpx2.Response | str:
        """The answer, or why there is none."""
        try:
            return await self._client.get(path)
        except httpx2.HTTPError as error:
            return f"the API does not answer ({type(error).__name__})"

    async def _live_workers(self) -> list[LiveWorker]:
        """Empty while the API does not answer."""
        key = self._key_file.read_text(encoding="utf-8").strip()
        try:
            response = await self._client.get("/v1/capabilities", headers={"Authorization": f"Bearer {key}"})
            response.raise_for_status()
        except httpx2.HTTPError:
            return []
        workers: list[LiveWorker] = response.json()["workers"]
        return [worker for worker in workers if worker["live"]]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _refused(answer: httpx2.Response) -> str | None:
    if answer.is_success:
        return None
    return f"{answer.request.url.path} says {answer.status_code}: {answer.text.strip()[:500]}"


def _failing_parts(answer: httpx2.Response) -> list[Part] | None:
    """Those that are not as they should be, also those that a service is ready without; `None`: it names no parts."""
    if answer.status_code not in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}:
        return None
    parts: list[Part] | None = answer.json().get("parts")
    return None if parts is None else [part for part in parts if not part["ok"]]


def _in_words(parts: Iterable[Part]) -> str | None:
    return "; ".join(f"{part['name']}: {part['detail']}" for part in parts) or None
