import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.standalone.backoff import Backoff
from app.standalone.logs import ProgramLog, tail
from app.standalone.processes import KeptProcess, Program, ended

pytestmark = pytest.mark.service

SLEEPS = "import time; time.sleep(60)"
IGNORES_SIGTERM = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def kept(folder: Path, script: str, *, echo: bool = False) -> KeptProcess:
    program = Program("example", [sys.executable, "-c", script], dict(os.environ))
    log = ProgramLog(folder / "example.log", name="example", echo=echo)
    return KeptProcess(program, log, backoff=Backoff(first=0.05))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        await asyncio.sleep(0.01)


def test_a_program_that_dies_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        process = kept(tmp_path, SLEEPS)
        process.start()
        await until(lambda: process.pid)
        first = process.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: process.pid not in (None, first))
        assert process.deaths == 1
        process.terminate()
        assert await ended([process], within=5)
        assert process.pid is None

    run(scenario())
    assert "example was ended by SIGKILL; starting it again in 0.05 s" in caplog.text


def test_a_program_that_was_asked_to_end_is_not_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = kept(tmp_path, SLEEPS)
        process.start()
        await until(lambda: process.pid)
        process.terminate()
        assert await ended([process], within=5)
        assert process.deaths == 0

    run(scenario())


def test_a_program_is_not_started_again_when_it_is_ended_between_two_starts(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = KeptProcess(
            Program("example", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ)),
            ProgramLog(tmp_path / "example.log", name="example", echo=False),
            backoff=Backoff(first=60),
        )
        process.start()
        await until(lambda: process.deaths)
        process.terminate()
        assert await ended([process], within=1)

    run(scenario())


def test_a_command_that_does_not_exist_counts_as_a_death(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = KeptProcess(
            Program("example", ["/nowhere/at/all"], dict(os.environ)),
            ProgramLog(tmp_path / "example.log", name="example", echo=False),
            backoff=Backoff(first=60),
        )
        process.start()
        await until(lambda: process.deaths)
        process.kill()
        assert await ended([process], within=1)

    run(scenario())


def test_kill_ends_a_program_that_does_not_listen_and_what_it_started(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = kept(tmp_path, IGNORES_SIGTERM)
        process.start()
        await until(lambda: "child" in tail(process.log.path))
        child = int(process.log.path.read_text().split()[1])
        process.terminate()
        assert not await ended([process], within=0.2)
        process.kill()
        assert await ended([process], within=5)
        await until(lambda: not psutil.pid_exists(child))

    run(scenario())


def test_everything_a_program_prints_is_in_its_log_and_what_matters_on_the_console(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
import sys
print("an ordinary line")
print("2026-11-23 23:45:47,123 ERROR kombu something is wrong", file=sys.stderr)
print("x" * 200_000)
print("the last, without an end", end="")
"""

    async def scenario() -> None:
        process = kept(tmp_path, script, echo=True)
        process.start()
        await until(lambda: process.deaths)
        process.terminate()
        await ended([process], within=5)

    run(scenario())
    text = (tmp_path / "example.log").read_text()
    assert "an ordinary line\n" in text
    assert text.replace("\n", "").count("x") >= 200_000
    assert "the last, without an end" in text
    assert "example: 2026-11-23 23:45:47,123 ERROR kombu something is wrong" in caplog.text
    assert "ordinary" not in caplog.text


def test_what_a_dead_program_left_behind_does_not_keep_it_from_being_started_again(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)']).pid)"
    )

    async def scenario() -> None:
        process = kept(tmp_path, script)
        process.start()
        await until(lambda: process.deaths)
        process.terminate()
        assert await ended([process], within=5)
        for pid in process.log.path.read_text().split():
            os.kill(int(pid), signal.SIGKILL)

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux' own")
def test_a_program_ends_when_the_process_that_keeps_it_is_killed(tmp_path: Path) -> None:
    keeper = f"""
import asyncio, os, sys
from pathlib import Path
from app.standalone.logs import ProgramLog
from app.standalone.processes import KeptProcess, Program

async def main():
    log = ProgramLog(Path({str(tmp_path)!r}) / "example.log", name="example", echo=False)
    process = KeptProcess(Program("example", [sys.executable, "-c", {SLEEPS!r}], dict(os.environ)), log)
    process.start()
    while not process.pid:
        await asyncio.sleep(0.01)
    print(process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", keeper], stdout=subprocess.PIPE)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 5
    while "time.sleep" not in " ".join(child.cmdline()):  # the tether has become the program
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=5)
