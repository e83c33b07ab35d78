"""The programs of one data folder: started in order, kept running, ended in order."""

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings
from app.standalone import broker, folder, programs
from app.standalone.logs import ProgramLog
from app.standalone.processes import KeptProcess, Program, ended
from app.standalone.readiness import MAX_DEATHS, ApiProbe, until_ready

API_HEAD_START_SECONDS = 0.5
"""How long the worker waits for the API to end before it is told to; it may have streams to close."""
KILL_AFTER_SECONDS = 8.8
"""A worker hands its trainings back within 8 s; all is over within 10."""
HURRY_SECONDS = 2.5
"""The same after the signal that has a worker hurry."""
WORKER_AGAIN_SECONDS = 2.2
"""A worker takes a signal for a second one 2 s after it heard the first, which may take a moment."""
BROKER_GRACE_SECONDS = 0.5

_log = logging.getLogger("thaw.up")


class Service:
    """The programs of one data folder."""

    def __init__(self, settings: Settings, listener: socket.socket, *, echo: bool) -> None:
        port = int(listener.getsockname()[1])
        self.url = programs.local_url(settings.host, port)
        self._listener = listener
        self._settings = settings
        self._echo = echo
        self._hurrying = False
        self._worker_told_at: float | None = None
        self._socket = None if settings.redis_url else broker.socket_path(settings.run_dir())
        variables = programs.environment(
            data_dir=settings.data_dir, host=settings.host, port=port, redis_url=self._redis_url()
        )
        self._broker = self._kept(self._broker_program(self._socket, variables)) if self._socket else None
        self._api = self._kept(programs.api(variables, listener))
        self._worker = self._kept(programs.worker(variables))

    async def start(self) -> None:
        """Start everything; returns when it is ready, or lacks only room on its disk.

        Raises `ServiceUnavailableError` if a part does not start.
        """
        if self._broker and self._socket:
            await self._start_broker(self._broker, self._socket)
        probe = ApiProbe(self.url, key_file=self._settings.api_key_file(), queues=programs.QUEUES)
        try:
            self._api.start()
            await until_ready(probe.alive, self._all())
            await probe.disregard_live_workers()
            self._worker.start()
            await until_ready(probe.ready, self._all())
            if probe.out_of_room:
                _log.warning("it runs, but takes no jobs until there is room: %s", probe.out_of_room)
        finally:
            await probe.close()

    async def stop(self) -> None:
        """End everything in the order API, worker, broker, within 10 s."""
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        self._api.terminate()
        self._listener.close()
        await ended([self._api], within=API_HEAD_START_SECONDS)
        self._tell_worker()
        await _end([self._api, self._worker], within=deadline - time.monotonic())
        if self._broker:
            self._broker.terminate()
            await _end([self._broker], within=BROKER_GRACE_SECONDS)

    def hurry(self) -> None:
        """End everything soon: the worker gives back what it has as it was kept last. Asked again, at once.

        It takes `HURRY_SECONDS`, from when the worker takes a signal for a second one.
        """
        if self._hurrying:
            self.kill()
            return
        self._hurrying = True
        self._api.kill()
        wait = max(self._tell_worker() + WORKER_AGAIN_SECONDS - time.monotonic(), 0)
        loop = asyncio.get_running_loop()
        loop.call_later(wait, self._worker.terminate)
        loop.call_later(wait + HURRY_SECONDS, self.kill)

    def _tell_worker(self) -> float:
        """Ask the worker to end, if it was not asked; when that was."""
        if self._worker_told_at is None:
            self._worker_told_at = time.monotonic()
            self._worker.terminate()
        return self._worker_told_at

    def kill(self) -> None:
        """End everything at once."""
        for kept in self._all():
            kept.kill()

    def _all(self) -> list[KeptProcess]:
        return [*([self._broker] if self._broker else []), self._api, self._worker]

    def _redis_url(self) -> str:
        given = self._settings.redis_url
        return given.get_secret_value() if given else broker.broker_url(broker.socket_path(self._settings.run_dir()))

    def _kept(self, program: Program) -> KeptProcess:
        path = self._settings.data_dir / "logs" / f"{program.name}.log"
        return KeptProcess(program, ProgramLog(path, name=program.name, echo=self._echo and program.echo))

    def _broker_program(self, socket_file: Path, variables: dict[str, str]) -> Program:
        binary = broker.find_broker_binary()
        folder.make_private(self._broker_folder())
        command = broker.broker_command(binary, socket_file=socket_file, folder=self._broker_folder())
        return Program("broker", command, variables, echo=False)

    def _broker_folder(self) -> Path:
        return self._settings.data_dir / "broker"

    async def _start_broker(self, kept: KeptProcess, socket_file: Path) -> None:
        set_aside: list[Path] = []

        async def probe() -> str | None:
            if kept.deaths == MAX_DEATHS - 1 and not set_aside:
                set_aside.append(broker.set_aside(self._broker_folder()))
                _log.warning("the broker did not start; its hints are set aside in %s", set_aside[0])
            return None if broker.answers(socket_file) else "the broker does not answer"

        kept.start()
        await until_ready(probe, [kept])


async def _end(programs: Sequence[KeptProcess], *, within: float) -> None:
    """Wait for programs that were told to end; after so many seconds kill what still runs."""
    if not await ended(programs, within=within):
        for program in programs:
            program.kill()
        await ended(programs, within=BROKER_GRACE_SECONDS)
