"""Child processes: how they start, what they carry, how they end."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain.errors import PlatformError
from app.domain.progress import CheckpointWritten, StepFinished, WeightsKept
from app.domain.spec import ResolvedSpec
from worker import messages, processes
from worker.messages import Alive, Failed, Message, Ready, Reported, Stopped, Trained
from worker.orders import Order, TrainOrder
from worker.processes import ChildProcess, Launcher, ProcessNotStartedError

pytestmark = pytest.mark.service

SpecOf = Callable[[str], ResolvedSpec]
Start = Callable[..., ChildProcess]


@pytest.fixture
def start(launcher: Launcher, spec: SpecOf, tmp_path: Path) -> Start:
    def start(behaviour: str, **order: object) -> ChildProcess:
        task = TrainOrder(spec=spec(behaviour), source=tmp_path, data=tmp_path)
        return launcher.start(Order(task=task, folder=tmp_path / "attempt", **order))

    return start


def follow(child: ChildProcess, *, until: type | None = None, seconds: float = 30) -> list[Message]:
    """Everything the child says until it ends, or until it says something of this type."""
    deadline = time.monotonic() + seconds
    said: list[Message] = []
    while child.exit_code() is None and time.monotonic() < deadline:
        said += child.receive(timeout=0.05)
        if until and any(isinstance(message, until) for message in said):
            return said
    return said + child.receive(timeout=0)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_child_says_that_it_is_ready_what_it_does_and_how_it_ended(start: Start, method: str) -> None:
    child = start("succeed", start_method=method)
    said = follow(child)
    assert isinstance(said[0], Ready)
    assert all(isinstance(message, Reported) for message in said[1:-1])
    assert isinstance(said[-1], Trained)
    assert child.exit_code() == 0
    child.close()


def test_a_forked_child_is_ready_within_a_tenth_of_a_second(start: Start) -> None:
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        child = start("succeed")
        follow(child, until=Ready)
        seconds.append(time.monotonic() - started)
        child.close()
    assert min(seconds) < 0.1, seconds


def test_an_error_of_the_engine_comes_over_as_it_is(start: Start) -> None:
    outcome = follow(start("refuse"))[-1]
    assert isinstance(outcome, Failed)
    assert (outcome.failure.error_class, outcome.failure.code, outcome.failure.param) == ("user", "illegal_cut", "cut")


def test_an_unexpected_error_names_itself_and_leaves_its_traceback_in_the_log(start: Start, tmp_path: Path) -> None:
    outcome = follow(start("error"))[-1]
    assert isinstance(outcome, Failed)
    assert (outcome.failure.error_class, outcome.failure.code) == ("platform", "internal_error")
    assert "KeyError: 'missing'" in outcome.failure.message
    assert 'return {}["missing"]' in (tmp_path / "attempt" / "output.log").read_text()


def test_an_error_comes_over_although_the_log_is_on_a_full_disk(start: Start, tmp_path: Path) -> None:
    (tmp_path / "attempt").mkdir()
    (tmp_path / "attempt" / "output.log").symlink_to("/dev/full")
    child = start("error")
    outcome = follow(child)[-1]
    assert isinstance(outcome, Failed)
    assert "KeyError: 'missing'" in outcome.failure.message
    assert child.exit_code() == 0


def test_a_child_that_cannot_work_in_its_folder_says_why(start: Start, tmp_path: Path) -> None:
    (tmp_path / "attempt").write_text("a file")
    outcome = follow(start("succeed"))[-1]
    assert isinstance(outcome, Failed)
    assert "NotADirectoryError" in outcome.failure.message


@pytest.mark.parametrize(
    ("keep", "kept"), [("checkpoint", [CheckpointWritten]), ("weights", [WeightsKept]), ("nothing", [])]
)
def test_a_signal_stops_it_between_two_steps_with_what_is_to_be_kept(start: Start, keep: Any, kept: list[type]) -> None:
    child = start("count-on")
    follow(child, until=Reported)
    child.ask_to_stop(keep)
    said = follow(child)
    assert isinstance(said[-1], Stopped)
    told = [type(each.progress) for each in said if isinstance(each, Reported)]
    assert [each for each in told if each is not StepFinished] == kept


def test_a_process_with_nothing_to_report_says_that_it_goes_on(start: Start) -> None:
    said = follow(start("silent"))
    assert isinstance(said[-1], Trained)
    assert any(isinstance(message, Alive) for message in said)


def test_kill_ends_the_whole_group(start: Start, tmp_path: Path, eventually: Callable[..., float]) -> None:
    child = start("deaf")
    follow(child, until=Reported)
    grandchild = int((tmp_path / "attempt" / "grandchild").read_text())
    child.kill()
    eventually(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")
    eventually(lambda: child.exit_code() == -signal.SIGKILL)


def test_exit_codes_survive_other_starts(start: Start, eventually: Callable[..., float]) -> None:
    # Starting a process makes multiprocessing collect the exit codes of all others.
    children = [start("leave") for _ in range(10)]
    eventually(lambda: all(child.exit_code() is not None for child in children))
    assert [child.exit_code() for child in children] == [3] * 10


def test_an_exit_code_stays_known(start: Start, eventually: Callable[..., float]) -> None:
    # The forkserver writes it, and closes the pipe a moment later.
    for _ in range(30):
        child = start("leave")
        eventually(lambda child=child: child.exit_code() is not None)
        assert [child.exit_code() for _ in range(50)] == [3] * 50
        child.close()


def test_a_child_that_cannot_end_by_itself_ends_all_the_same(start: Start) -> None:
    child = start("linger")
    assert isinstance(follow(child)[-1], Trained)
    assert child.exit_code() == 0


@pytest.mark.parametrize(("method", "ends"), [("forkserver", 2), ("spawn", 3)])
def test_a_child_has_only_its_own_files_open(start: Start, tmp_path: Path, method: str, ends: int) -> None:
    child = start("forever", start_method=method)
    follow(child, until=Reported)
    folder = Path(f"/proc/{child.pid}/fd")
    targets = sorted(str(path.readlink()) for path in folder.iterdir())
    pipes = [target for target in targets if target.startswith("pipe:")]
    # To the supervisor; by which it sees its parent alive; and, unless the forkserver holds it, its own sign of life.
    assert len(pipes) == ends
    log = str(tmp_path / "attempt" / "output.log")
    assert set(targets) == {os.devnull, log, *pipes}
    child.kill()


def test_a_child_has_its_own_session_folder_and_device(start: Start, tmp_path: Path) -> None:
    child = start("forever", environment={"CUDA_VISIBLE_DEVICES": "GPU-7"})
    follow(child, until=Reported)
    assert os.getsid(child.pid) == child.pid
    assert Path(f"/proc/{child.pid}/cwd").readlink() == tmp_path / "attempt" / "run"
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "800"
    child.kill()


def test_the_kernel_refuses_memory_beyond_the_limit(start: Start) -> None:
    outcome = follow(start("greedy", memory_bytes=4 * 1024**3))[-1]
    assert isinstance(outcome, Failed)
    assert (outcome.failure.error_class, outcome.failure.code) == ("capacity", "out_of_memory")


@pytest.mark.parametrize("sent", [b"hello\n", b"x" * 101])
def test_what_is_no_message_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", 100)
    child = start("forever")
    reader, writer = os.pipe()
    os.write(writer, sent)
    os.dup2(reader, child._connection.fileno())
    with pytest.raises(PlatformError):
        child.receive(timeout=1)
    child.close()


def test_of_a_child_that_is_killed_within_a_message_its_exit_code_tells(start: Start) -> None:
    child = start("broken-off")
    assert [type(each) for each in follow(child)] == [Ready]
    assert child.receive(timeout=0) == []
    assert child.exit_code() == -signal.SIGKILL


def test_nobody_waits_for_the_rest_of_a_message_of_a_child_that_stands_still(
    start: Start, eventually: Callable[..., float]
) -> None:
    child = start("frozen-within")
    eventually(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
    assert [type(each) for each in follow(child, seconds=0.2)] == [Ready]
    assert child.exit_code() is None
    child.kill()
    eventually(lambda: child.exit_code() == -signal.SIGKILL)


def test_a_forkserver_that_died_is_replaced(start: Start) -> None:
    child = start("forever")
    follow(child, until=Reported)
    forkserver = psutil.Process(child.pid).parent()
    assert forkserver is not None
    forkserver.kill()
    follow(child)
    assert child.exit_code() is not None, "its children end with it"
    again = start("succeed")
    assert isinstance(follow(again)[-1], Trained)


def test_a_forkserver_outlives_the_thread_that_needed_it(start: Start) -> None:
    """Linux would end it, and all that it has started, with the thread by which it was started itself."""
    child = start("succeed")
    forkserver = psutil.Process(child.pid).parent()
    assert forkserver is not None
    follow(child)
    forkserver.kill()
    started: list[ChildProcess] = []
    thread = threading.Thread(target=lambda: started.append(start("forever")))
    thread.start()
    thread.join(30)
    (lasting,) = started
    follow(lasting, until=Reported)
    for _ in range(2):  # it goes on after what it had said before the thread had ended
        assert any(isinstance(said, Reported) for said in follow(lasting, until=Reported))
    assert lasting.exit_code() is None
    lasting.close()


class Broken:
    """Starting a process fails so often, after so long."""

    def __init__(self, *, times: int, seconds: float) -> None:
        self.times, self.seconds, self.asked = times, seconds, 0
        self.started = processes._started

    def __call__(self, *arguments: Any) -> Any:
        self.asked += 1
        if self.asked <= self.times:
            time.sleep(self.seconds)
            message = "unexpected EOF"
            raise EOFError(message)
        return self.started(*arguments)


def test_a_forkserver_that_is_killed_while_it_loads_is_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is noticed so late that no time is left for another try, and yet there is one."""
    monkeypatch.setattr(processes, "_RESTART_SECONDS", 0.1)
    monkeypatch.setattr(processes, "_started", Broken(times=1, seconds=0.2))
    assert isinstance(follow(start("succeed"))[-1], Trained)


def test_a_process_that_can_never_be_started_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_RESTART_SECONDS", 0.1)
    monkeypatch.setattr(processes, "_started", Broken(times=1000, seconds=0.05))
    with pytest.raises(ProcessNotStartedError, match="cannot start another process: EOFError"):
        start("succeed")


def test_a_preload_that_fails_is_loud() -> None:
    # In a process of its own: there is one forkserver for each.
    import subprocess
    import sys

    program = "from worker.processes import Launcher\nLauncher(preload=['worker.engine.no_such_module']).warm()\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "PlatformError: The forkserver did not preload worker.engine.no_such_module" in ended.stderr
