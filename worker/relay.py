"""Passes what a training process reports on to the database: in batches, at most two a second.

A thread of its own, because a checkpoint of gigabytes takes its time to upload, and meanwhile somebody must watch
the process.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.domain.artifacts import Artifact
from app.domain.errors import LeaseLostError
from app.domain.progress import PhaseFinished, Progress, StepFinished
from app.storage.artifacts import ArtifactStore
from worker import bundles
from worker.lease import Lease

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
        with self._changed:
            if self._waiting and isinstance(progress, StepFinished) and isinstance(self._waiting[-1], StepFinished):
                self._waiting[-1] = progress
            else:
                self._waiting.append(progress)
            self._changed.notify()

    def finish(self) -> None:
        """Write what is left. Raises what kept it from being written."""
        self.close()
        self._thread.join()
        if self.error:
            raise self.error

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._over = True
            self._changed.notify()

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
        checkpoints = {
            progress.checkpoint: bundles.upload_file(self._run, progress.checkpoint, self._store)
            for progress in batch
            if isinstance(progress, PhaseFinished)
        }
        self._lease.persist(lambda: self._write(batch, checkpoints))
