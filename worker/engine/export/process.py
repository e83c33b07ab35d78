"""Runs the converting process, as often as it takes: one that crashes fails the export it was at, and no other.

    formats ──▶ process ──▶ answers, files        a crash at the second of three: that one failed,
                                                  another process makes the third

A process of its own costs importing TensorFlow once (5 to 20 s). It keeps a converter's crash, memory and global
state from the training process, and it can be ended at once when the job is to stop.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.domain.exports import Export, ExportFormat
from app.domain.spec import Task
from worker.engine import durable
from worker.engine.export.order import NO_ROOM, Order
from worker.engine.reporter import Reporter

LOG = "converting.log"
TICK_SECONDS = 0.1
"""How often the wish to stop is looked for."""
MAX_SECONDS_EACH = 3600.0
"""A converter that has not ended by then never will."""
_ROOT = Path(__file__).resolve().parents[3]
"""Where `app` and `worker` are imported from."""


def make_exports(
    formats: Sequence[ExportFormat],
    *,
    results: Path,
    model: Path,
    names: Mapping[str, str],
    data: Path,
    task: Task,
    image_size: tuple[int, int] | None,
    seed: int,
    reporter: Reporter,
) -> list[Export]:
    """Make the exports that a job asks for from its `model.keras`; the files of those that succeeded go to `results`.

    `names`: as in `Order`; `data`: the canonical dataset. Raises whatever `reporter.check` raises, and `PlatformError`
    (`storage_full`).
    """
    if not formats:
        return []
    scratch = Path(tempfile.mkdtemp(prefix=".exporting.", dir=results.parent))
    try:
        order = Order(
            formats=list(formats),
            model=model,
            names=dict(names),
            data=data,
            task=task,
            image_size=image_size,
            seed=seed,
            folder=scratch,
        )
        exports = _until_all_are_answered(order, reporter)
        for export in exports:
            _publish(order, export, results)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return exports


def _until_all_are_answered(order: Order, reporter: Reporter) -> list[Export]:
    exports: list[Export] = []
    while len(exports) < len(order.formats):
        remaining = order.formats[len(exports) :]
        status = _run(order.model_copy(update={"formats": remaining}), reporter)
        if status == NO_ROOM:
            detail = f"no space left on device while {', '.join(remaining)} were made"
            raise durable.storage_full(detail)
        answers = [order.answered(wanted) for wanted in remaining]
        known = [answer for answer in answers if answer]
        exports.extend(known)
        if len(known) < len(remaining):
            exports.append(_crashed(remaining[len(known)], status))
    return exports


def _run(order: Order, reporter: Reporter) -> int:
    """One process, to its end; its exit status. It ends when this one wants to stop."""
    command = command_for(order.write())
    deadline = time.monotonic() + MAX_SECONDS_EACH * len(order.formats)
    with (order.folder / LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            command, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                reporter.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TICK_SECONDS)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        reporter.check()  # what is to stop this process may have ended that one before it could ignore it
    return process.returncode


def command_for(order_file: Path) -> list[str]:
    """What this process starts, so that it dies with it."""
    return [sys.executable, "-P", "-m", "worker.engine.export", str(order_file), str(os.getpid())]


def _environment() -> dict[str, str]:
    """Without GPUs: training holds their memory, and results are compared on what everybody has."""
    return {**os.environ, "PYTHONPATH": str(_ROOT), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def _crashed(wanted: ExportFormat, status: int) -> Export:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    reason = f"The process that converts {how} at this format, and left nothing. Other formats are not concerned."
    return Export(format=wanted, status="failed", reason=reason)


def _publish(order: Order, export: Export, results: Path) -> None:
    if export.file:
        with durable.replacing(results / export.file) as temporary:
            order.file(export.format).rename(temporary)
