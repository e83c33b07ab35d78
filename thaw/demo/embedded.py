"""The service that the demo starts: the same as `thaw up`, on a free port, quiet."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.standalone.folder import read_note
from app.standalone.processes import tethered
from thaw.client import Client
from thaw.demo.problems import DemoError

_POLL_SECONDS = 0.1
_STOP_SECONDS = 12.0
"""It ends within 10."""


class EmbeddedService:
    """A service that is starting, or runs."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._run_dir = data_dir / "run"
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            command = [sys.executable, "-P", "-m", "app.standalone", "--data-dir", str(data_dir)]
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                tethered([*command, "--host", "127.0.0.1", "--port", "0", "--quiet"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C is the demo's business.
                start_new_session=True,
            )

    def client(self) -> Client:
        """A client, once the service is ready. Raises `DemoError` with the reason if it does not get ready."""
        while (note := read_note(self._run_dir)) is None or note["pid"] != self._process.pid:
            if self._process.poll() is not None:
                message = f"The service did not start:\n{self._log.read_text(encoding='utf-8').strip()}"
                raise DemoError(message)
            time.sleep(_POLL_SECONDS)
        return Client(note["url"], api_key_file=Path(note["api_key_file"]))

    def stop(self) -> None:
        """End it and everything that it started."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def starting(data_dir: Path, log: Path) -> Iterator[EmbeddedService]:
    """Start a service, which loads for some seconds; ends it with the block."""
    service = EmbeddedService(data_dir, log)
    try:
        yield service
    finally:
        service.stop()
