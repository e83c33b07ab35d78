import errno
import io
import logging
from pathlib import Path

import pytest

from app.standalone import logs


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "Broker not reached.", "error": "refused", "level": "warning", "timestamp": "2026"}',
            "Broker not reached. error=refused",
        ),
        ('{"event": "Answered a request.", "level": "info"}', None),
        ('{"event": "It says error", "level": "info"}', None),
        ("{no json", None),
        ("2026-11-23 23:45:47,123 WARNING kombu lost", "2026-11-23 23:45:47,123 WARNING kombu lost"),
        ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", None),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("worker: Warm shutdown (MainProcess)", None),
    ],
)
def test_the_console_shows_warnings_and_errors_only(line: str, shown: str | None) -> None:
    assert logs.what_matters(line) == shown


def test_a_log_is_rotated_before_it_grows_over_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 1000)
    log = logs.LogFile(tmp_path / "example.log")
    for number in range(1000):
        log.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    log.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.KEPT_LOGS
    assert all(path.stat().st_size <= 1000 for path in files)
    assert (tmp_path / "example.log").read_text().endswith("line 999\n")


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_once_and_does_not_stop_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logs.LogFile(tmp_path / "example.log")
    log.stream = FullDisk()  # type: ignore[assignment]  # any writable text stream will do
    for _ in range(3):
        log.emit(logging.makeLogRecord({"msg": "lost"}))
    log.close()
    said = capsys.readouterr().err
    assert said.count("cannot be written, its lines are lost: [Errno 28] No space left on device") == 1


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "example.log"
    assert logs.tail(path) == ""
    path.write_text("one\ntwo\nthree\n")
    assert logs.tail(path, lines=2) == "two\nthree"
