"""Passes what a training process reports on to the database: in batches, at most two a second.

A thread of its own, because weights of gigabytes take their time to upload, and meanwhile somebody must watch the
process. What a job goes on from has a thread of its own again, and is told of once it is in the store: everything that
the process had reported before is written by then.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from app.domain.artifacts import Artifact
from app.domain.errors import LeaseLostError
from app.domain.progress import CheckpointWritten, PhaseFinished, Progress, StepFinished, WeightsKept
from app.storage.artifacts import ArtifactStore, Check, go_on
from app.storage.database import is_out_of_room
from app.storage.spool import no_room
from worker import bundles
from worker.lease import Lease
from worker.resumption import CHECK_SECONDS, CheckpointUploads

FLUSH_SECONDS = 0.5
MAX_WAITING = 10_000
"""Reports that may wait for the database; a process that has more to say has to wait itself."""

Write = Callable[[Sequence[Progress], Mapping[str, Artifact]], None]


class Relay:
    """Takes reports at once and writes them soon, in their order."""

    def __init__(self, write: Write, *, lease: Lease, store: ArtifactStore, run: Path) -> None:
        """`run`: the folder that the paths of checkpoints start from."""
        self._write = write
        self._lease = lease
        self._store = store
        self._run = run
        self._uploads = CheckpointUploads(run, store, self._uploaded, self._fail)
        self._files: dict[str, Artifact] = {}
        self._waiting: list[Progress] = []
        self._changed = threading.Condition()
        self._over = False
        self.error: Exception | None = None
        """Why nothing more gets through, such as a full disk."""
        self._thread = threading.Thread(target=self._relay, name="relay", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether the process should wait."""
        return len(self._waiting) >= MAX_WAITING

    def add(self, progress: Progress) -> None:
        """Take a report. Of several steps only the last one counts."""
        if isinstance(progress, CheckpointWritten):
            self._uploads.offer(progress)
            return
        with self._changed:
            if self._waiting and isinstance(progress, StepFinished) and isinstance(self._waiting[-1], StepFinished):
                self._waiting[-1] = progress
            else:
                self._waiting.append(progress)
            self._changed.notify()

    def finish(self, *, checkpoint_seconds: float = 0.0, check: Check = go_on) -> None:
        """Write what is left, and the newest checkpoint if it is uploaded so soon. Raises what kept it from that.

        `check` is called now and then while that lasts. What it raises goes through.
        """
        self._uploads.finish(seconds=checkpoint_seconds, check=check)
        self.close()
        while self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)
            if self._thread.is_alive():
                check()
        if self.error:
            raise self.error

    def close(self) -> None:
        """Take nothing more."""
        self._uploads.finish(seconds=0)
        with self._changed:
            self._over = True
            self._changed.notify()

    def _uploaded(self, told: CheckpointWritten, files: Mapping[str, Artifact]) -> bool:
        with self._changed:
            if self._over:
                return False
            self._files |= files
            self._waiting.append(told)
            self._changed.notify()
            return True

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error

    def _relay(self) -> None:
        try:
            while batch := self._next_batch():
                written_at = time.monotonic()
                self._send(batch)
                self._pause(written_at + FLUSH_SECONDS)
        except LeaseLostError as error:
            self.error = error
            self._lease.give_up(str(error))
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the supervisor raises it)
            self.error = error

    def _next_batch(self) -> list[Progress]:
        """All that waits, as soon as something does; nothing once it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            batch, self._waiting = self._waiting, []
            return batch

    def _pause(self, until: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over, timeout=max(0, until - time.monotonic()))

    def _send(self, batch: list[Progress]) -> None:
        files = {
            progress.checkpoint: bundles.upload_file(self._run, progress.checkpoint, self._store)
            for progress in batch
            if isinstance(progress, PhaseFinished | WeightsKept)
        }
        for progress in batch:
            if isinstance(progress, CheckpointWritten):
                paths = [f"{progress.folder}/{name}" for name in progress.files]
                files |= {path: self._files.pop(path) for path in paths}
        self._lease.persist(lambda: self._written(batch, files))

    def _written(self, batch: list[Progress], files: Mapping[str, Artifact]) -> None:
        """A full disk with the database on it is waited for in vain: what fills it may be this very attempt."""
        try:
            self._write(batch, files)
        except DBAPIError as error:
            if is_out_of_room(error):
                raise no_room() from error
            raise
