"""One program, kept running: started again with growing delays when it ends by itself, ended on request."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.standalone.backoff import Backoff
from app.standalone.logs import ProgramLog

_TETHER = Path(__file__).with_name("tether.py")
_LAST_WORDS_SECONDS = 1.0

_log = logging.getLogger("thaw.up")


@dataclass(frozen=True)
class Program:
    """What to start."""

    name: str
    """As people see it, and in the name of its log: `api`, `worker-cpu`."""
    command: Sequence[str]
    environment: Mapping[str, str]
    echo: bool = True
    """Whether its warnings and errors appear on the console too."""
    descriptors: Sequence[int] = ()
    """Open files that it inherits, such as a socket that listens."""


class KeptProcess:
    """A program and the process that runs it now, if one does."""

    def __init__(self, program: Program, log: ProgramLog, *, backoff: Backoff | None = None) -> None:
        self.program = program
        self.log = log
        self.deaths = 0
        """How often it ended without being asked to."""
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        """Done when it has ended for good."""

    @property
    def pid(self) -> int | None:
        """The process that runs it now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Start it, and start it again whenever it ends, until `terminate` or `kill`."""
        self.task = asyncio.create_task(self._keep(), name=self.program.name)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and do not start it again."""
        self._stopping.set()
        if self._process and self.pid:
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started at once, and do not start it again."""
        self._stopping.set()
        if self.pid:
            for process in _with_descendants(self.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    async def _keep(self) -> None:
        try:
            await self._run_again_and_again()
        finally:
            self.log.close()

    async def _run_again_and_again(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            ending = await self._run_once()
            if self._stopping.is_set():
                _log.info("%s ended", self.program.name)
                return
            self.deaths += 1
            delay = self._backoff.delay(lived=time.monotonic() - started)
            _log.warning("%s %s; starting it again in %g s (log: %s)", self.program.name, ending, delay, self.log.path)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_once(self) -> str:
        """Run it to its end; how it ended, in words."""
        read_end, write_end = os.pipe()
        try:
            self._process = await _spawn(self.program, output=write_end)
        except OSError as error:
            os.close(read_end)
            return f"could not be started: {error}"
        finally:
            os.close(write_end)
        if self._stopping.is_set():  # asked to while it was being started
            self._process.terminate()
        following = asyncio.create_task(self.log.follow(read_end))
        code = await self._process.wait()
        # A process that it left behind may hold the pipe open.
        await asyncio.wait([following], timeout=_LAST_WORDS_SECONDS)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return _in_words(code)


def tethered(command: Sequence[str]) -> list[str]:
    """The same command, sent SIGTERM when the thread that starts it ends; elsewhere than on Linux as it is."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), str(int(signal.SIGTERM)), *command]


async def _spawn(program: Program, *, output: int) -> asyncio.subprocess.Process:
    """Start a program in a session of its own, so that Ctrl-C reaches `thaw up` alone."""
    return await asyncio.create_subprocess_exec(
        *tethered(program.command),
        env=dict(program.environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=program.descriptors,
    )


async def ended(programs: Iterable[KeptProcess], *, within: float) -> bool:
    """Whether all of these have ended for good within so many seconds."""
    running = [program.task for program in programs if program.task]
    return not running or not (await asyncio.wait(running, timeout=max(within, 0)))[1]


def _in_words(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
