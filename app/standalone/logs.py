"""What the parts of the service say: one bounded file each, and what matters on the console.

logs/up.log             what `thaw up` itself did: started, ended, started again
logs/<program>.log      everything a program printed
"""

import asyncio
import json
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

MAX_LOG_BYTES = 10 * 1024**2
KEPT_LOGS = 3
"""Besides the current one: at most 40 MiB for each program."""

_MAX_LINE_BYTES = 64 * 1024
_IMPORTANT_LEVELS = frozenset({"warning", "error", "critical"})
_IMPORTANT_LINE = re.compile(r"^[\d-]+ [\d:,.]+ (WARNING|ERROR|CRITICAL) |^Traceback ")
"""As `logging` writes them; TensorFlow's own chatter, which begins with WARNING too, has no date."""

_log = logging.getLogger("thaw.up")


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that is rotated before it grows over its limit."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=MAX_LOG_BYTES, backupCount=KEPT_LOGS, encoding="utf-8", errors="backslashreplace", delay=True
        )
        self._failing = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (the signature is logging's)
        """Say once that lines are lost: on a full disk the programs must go on all the same."""
        if not self._failing:
            self._failing = True
            sys.stderr.write(f"{self.baseFilename} cannot be written, its lines are lost: {sys.exception()}\n")


def say_on(path: Path, *, quiet: bool) -> Callable[[], None]:
    """Send what `thaw up` says to its log, and to standard error unless `quiet`; returns how to end that."""
    file = LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handlers: list[logging.Handler] = [file] if quiet else [file, console]
    for handler in handlers:
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False

    def end() -> None:
        for handler in handlers:
            _log.removeHandler(handler)
            handler.close()

    return end


def tail(path: Path, *, lines: int = 20) -> str:
    """The last lines of a log, for the reason why something did not start."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def what_matters(line: str) -> str | None:
    """What the console shows of a line: warnings and errors, those in JSON as a sentence with its facts."""
    if not line.startswith("{"):
        return line if _IMPORTANT_LINE.match(line) else None
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if record.pop("level", None) not in _IMPORTANT_LEVELS:
        return None
    sentence = record.pop("event", "")
    facts = (f"{name}={value}" for name, value in record.items() if name not in {"timestamp", "logger", "exception"})
    return " ".join([str(sentence), *facts])


class ProgramLog:
    """The output of one program, over all its restarts."""

    def __init__(self, path: Path, *, name: str, echo: bool) -> None:
        self.path = path
        self._name = name
        self._echo = echo
        self._handler = LogFile(path)

    async def follow(self, descriptor: int) -> None:
        """Copy lines from the read end of a pipe until nobody can write to it any more."""
        reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        try:
            await self._copy(reader)
        finally:
            transport.close()

    async def _copy(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(_MAX_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._write(line)
            if len(rest) > _MAX_LINE_BYTES:
                self._write(rest)
                rest = b""
        if rest:
            self._write(rest)

    def _write(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        self._handler.emit(logging.makeLogRecord({"msg": text, "args": None}))
        if self._echo and (matter := what_matters(text)):
            _log.warning("%s: %s", self._name, matter)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
