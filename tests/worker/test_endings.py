"""Every way to end has its class, its code and a message that says what to do."""

import errno
import signal
from pathlib import Path

import pytest

from app.domain.errors import CutError, ProofError, StorageFullError
from worker.endings import Exit, failure_of, failure_of_exit, last_words, was_killed


class ResourceExhaustedError(Exception):
    """Named like TensorFlow's."""


def _of_exit(
    tmp_path: Path, code: int, *, task: str = "train", log: str = "", oom_kills: int = 0
) -> tuple[str, str, str]:
    (tmp_path / "log").write_text(log)
    failure = failure_of_exit(Exit(task=task, code=code, log=tmp_path / "log", oom_kills=oom_kills))
    return failure.error_class, failure.code, failure.message


def test_an_error_of_the_engine_is_passed_on_as_it_is() -> None:
    assert failure_of(CutError("No.", param="cut")) == CutError("No.", param="cut").failure()
    assert failure_of(ProofError("It moved.")).code == "freeze_proof_failed"


@pytest.mark.parametrize(
    ("error", "error_class", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "platform", "storage_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "platform", "storage_full"),
        (StorageFullError("Full."), "platform", "storage_full"),
        (ResourceExhaustedError("results/x; No space left on device"), "platform", "storage_full"),
        (MemoryError(), "capacity", "out_of_memory"),
        (ResourceExhaustedError("OOM when allocating tensor"), "capacity", "out_of_memory"),
        (KeyError("missing"), "platform", "internal_error"),
        (OSError(errno.EIO, "Input/output error"), "platform", "internal_error"),
    ],
)
def test_an_error_says_whose_fault_it_is(error: Exception, error_class: str, code: str) -> None:
    failure = failure_of(error)
    assert (failure.error_class, failure.code) == (error_class, code)


def test_a_full_disk_is_found_behind_other_errors() -> None:
    error = ValueError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failure_of(error).code == "storage_full"


def test_an_unexpected_error_names_its_type_and_its_words() -> None:
    assert "KeyError: 'missing'" in failure_of(KeyError("missing")).message


def test_a_crash_names_the_signal_and_the_last_words(tmp_path: Path) -> None:
    error_class, code, message = _of_exit(tmp_path, -signal.SIGSEGV, log="one\ntwo\n")
    assert (error_class, code) == ("platform", "training_process_crashed")
    assert "SIGSEGV" in message
    assert "one | two" in message


@pytest.mark.parametrize(("task", "code"), [("register", "unusable_source"), ("validate", "unusable_dataset")])
def test_a_file_that_crashes_its_check_is_the_fault_of_who_sent_it(tmp_path: Path, task: str, code: str) -> None:
    assert _of_exit(tmp_path, -signal.SIGSEGV, task=task)[:2] == ("user", code)


def test_a_kill_is_told_from_a_lack_of_memory_by_the_kernels_counter(tmp_path: Path) -> None:
    kill = {"task": "train", "log": tmp_path / "log"}
    assert was_killed(Exit(code=-signal.SIGKILL, oom_kills=0, **kill))
    assert not was_killed(Exit(code=-signal.SIGKILL, oom_kills=1, **kill))
    assert not was_killed(Exit(code=-signal.SIGSEGV, oom_kills=0, **kill))
    assert _of_exit(tmp_path, -signal.SIGKILL, oom_kills=1)[:2] == ("capacity", "out_of_memory")


def test_an_abort_for_lack_of_memory_is_one(tmp_path: Path) -> None:
    log = "terminate called after throwing an instance of 'std::bad_alloc'"
    assert _of_exit(tmp_path, -signal.SIGABRT, log=log)[:2] == ("capacity", "out_of_memory")


def test_an_end_without_a_word_is_the_platforms(tmp_path: Path) -> None:
    error_class, code, message = _of_exit(tmp_path, 3)
    assert (error_class, code) == ("platform", "training_process_ended")
    assert "exit code 3" in message


def test_the_last_words_of_a_crash_are_what_led_to_it_and_where_it_was(tmp_path: Path) -> None:
    frames = "".join(f'  File "{number}.py", line 1 in f\n' for number in range(50))
    log = f"one\ntwo\nwhy\nFatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n{frames}"
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == (
        "one | two | why | Fatal Python error: Aborted | Thread 0x1 (most recent call first): | "
        'File "0.py", line 1 in f'
    )


def test_last_words_are_few(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 100_000 + "\n" + "\n".join(f"line {number}" for number in range(100)))
    assert last_words(tmp_path / "log") == "line 94 | line 95 | line 96 | line 97 | line 98 | line 99"
    assert last_words(tmp_path / "none") == ""
