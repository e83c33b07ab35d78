"""The plain Keras programs of the demo, run in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from app.standalone.processes import tethered
from thaw.demo.problems import DemoError

_SCRIPTS = Path(__file__).with_name("scripts")
_GRACE_SECONDS = 5.0


@contextmanager
def started(script: str, *arguments: str, folder: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Start a script; yields the lines of JSON that it prints. Ends it when the block is left early.

    Raises `DemoError` with what it said if it fails.
    """
    errors = folder / f"{script}.log"
    with errors.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603 (our own script)
            tethered([sys.executable, "-P", str(_SCRIPTS / script), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # Without TensorFlow's remarks about the machine.
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
            # Ctrl-C is the demo's business.
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        yield _said(process, process.stdout, script, errors)
    finally:
        _end(process)


def _said(process: subprocess.Popen[str], output: IO[str], script: str, errors: Path) -> Iterator[dict[str, Any]]:
    for line in output:
        if line.startswith("{"):
            yield json.loads(line)
    if process.wait() != 0:
        reason = "\n".join(errors.read_text(encoding="utf-8").splitlines()[-15:])
        message = f"{script} failed with exit code {process.returncode}:\n{reason}"
        raise DemoError(message)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout:
        process.stdout.close()
