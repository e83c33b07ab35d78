"""Checkpoints between a training process and the store.

    process --writes--> run/checkpoints/resume-000007 --CheckpointUploads--> store      while it trains on
    store --place--> run/checkpoints/resume-000001, and the best one below it           before it begins

The process deletes its older checkpoints itself. So the files of one that is to be uploaded are linked into a folder of
ours first: they stay while they are read, and training never waits.
"""

import json
import math
import shutil
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from app.domain.artifacts import Artifact
from app.domain.errors import PlatformError, ServiceUnavailableError
from app.domain.job import Checkpoint
from app.domain.progress import CheckpointWritten
from app.storage.artifacts import ArtifactStore, Check, go_on
from worker import bundles
from worker.processes import ProcessNotStartedError

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
"""Lists the files of a checkpoint with their sha256."""
CHECK_SECONDS = 0.25
"""How often who waits for the end of uploads looks whether it should."""

_log = structlog.get_logger(__name__)

Tell = Callable[[CheckpointWritten, Mapping[str, Artifact]], bool]


def place(checkpoints: Sequence[Checkpoint], run: Path, store: ArtifactStore, *, check: Check = go_on) -> bool:
    """Put the newest usable checkpoint where the engine looks for it, and the best one of its phase below it.

    For one that the store has lost, or that is damaged there or was before it got there, an empty folder says so: the
    engine refuses it, tells of it, and takes the one before. `checkpoints`: the newest first. What `check` raises,
    which is called all the while, goes through.

    The best one is there if the phase diverges. Nothing goes on from it, so if it is not usable the next best is taken.
    False: there are checkpoints, and none of them is usable.
    """
    folders = [run / FOLDER / f"resume-{number:06d}" for number in range(len(checkpoints), 0, -1)]
    left = list(zip(checkpoints, folders, strict=True))
    while left:
        newest, folder = left.pop(0)
        if _fetch(newest, folder, store, check):
            break
        folder.mkdir()
    else:
        return not checkpoints
    better = [(each, folder) for each, folder in left if _better(each, newest)]
    for each, folder in sorted(better, key=lambda pair: _loss(pair[0])):
        if _fetch(each, folder, store, check):
            break
    return True


def _fetch(checkpoint: Checkpoint, folder: Path, store: ArtifactStore, check: Check) -> bool:
    """Whether it is usable; if not, nothing is left of it."""
    folder.mkdir(parents=True)
    try:
        for artifact in checkpoint.files:
            store.fetch(artifact.sha256, folder / artifact.name, check=check)
        _check_listed(checkpoint, folder)
    except PlatformError as error:
        _log.warning("checkpoint not usable", checkpoint=checkpoint.id, reason=error.message)
        shutil.rmtree(folder)
        return False
    return True


def _better(checkpoint: Checkpoint, newest: Checkpoint) -> bool:
    return checkpoint.phase.index == newest.phase.index and _loss(checkpoint) < _loss(newest)


def _loss(checkpoint: Checkpoint) -> float:
    return checkpoint.metrics.get("val_loss", math.inf)


def _check_listed(checkpoint: Checkpoint, folder: Path) -> None:
    """What was stored is what the engine has written, by the list that it wrote last."""
    path = folder / MANIFEST
    if not path.is_file():  # the engine judges it
        return
    try:
        listed = {name: told["sha256"] for name, told in json.loads(path.read_bytes())["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"Its {MANIFEST} cannot be read: {error}"
        raise PlatformError(message, code="corrupt_artifact") from error
    stored = {artifact.name: artifact.sha256 for artifact in checkpoint.files if artifact.name != MANIFEST}
    if listed != stored:
        different = sorted(name for name in {*listed, *stored} if listed.get(name) != stored.get(name))
        message = f"What is stored is not what was written: {', '.join(different)}"
        raise PlatformError(message, code="corrupt_artifact")


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="checkpoints", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        message = f"No thread could be started to keep checkpoints: {error}. Check how many processes may run."
        raise ProcessNotStartedError(message) from error
    return thread


class CheckpointUploads:
    """Uploads the newest checkpoint that there is, one at a time, in a thread of its own."""

    def __init__(self, run: Path, store: ArtifactStore, tell: Tell, fail: Callable[[Exception], None]) -> None:
        """Nothing happens before the first `offer`.

        `tell` is called with each that is in the store, and answers whether it will be written down; `fail` once,
        with what keeps them from getting there.
        """
        self._run = run
        self._store = store
        self._tell = tell
        self._fail = fail
        self._waiting: tuple[CheckpointWritten, Path] | None = None
        self._busy = False
        self._over = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, told: CheckpointWritten) -> None:
        """Take note of one; it takes the place of one that still waits. One that is gone already is superseded.

        Raises `ProcessNotStartedError` where this machine starts no more threads.
        """
        try:
            held = self._hold(told)
        except FileNotFoundError:
            return
        with self._changed:
            if self._waiting:
                shutil.rmtree(self._waiting[1], ignore_errors=True)
            self._waiting = told, held
            if self._thread is None:
                self._thread = _started(self._upload_all)
            self._changed.notify_all()

    def finish(self, *, seconds: float, check: Check = go_on) -> bool:
        """Wait until the newest one is in the store, at most so long; whether it is. Nothing more is taken.

        What `check` raises, which is called now and then, goes through.
        """
        deadline = time.monotonic() + seconds
        while not (done := self._wait(deadline)) and time.monotonic() < deadline:
            check()
        with self._changed:
            self._over = True
            self._changed.notify_all()
        return done

    def _wait(self, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(self._idle, timeout=max(0.0, min(CHECK_SECONDS, deadline - time.monotonic())))

    def _idle(self) -> bool:
        return self._waiting is None and not self._busy

    def _hold(self, told: CheckpointWritten) -> Path:
        # Beside the process's folder, in the attempt's.
        held = self._run.with_name(f"{self._run.name}-uploading") / f"{told.number}"
        held.mkdir(parents=True)
        try:
            for name in told.files:
                path = bundles.inside(self._run, f"{told.folder}/{name}")
                (held / path.name).hardlink_to(path)
        except FileNotFoundError:
            shutil.rmtree(held)
            raise
        return held

    def _upload_all(self) -> None:
        try:
            while (next_one := self._next()) is not None:
                told, held = next_one
                files = self._upload(told, held)
                shutil.rmtree(held, ignore_errors=True)
                if not self._tell(told, files):
                    self._take_back(files)
        except Exception as error:  # noqa: BLE001 (the edge of the thread: the supervisor raises it)
            self._fail(error)
        finally:
            with self._changed:
                self._busy, self._waiting = False, None
                self._changed.notify_all()

    def _next(self) -> tuple[CheckpointWritten, Path] | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._over)
            found, self._waiting = (None if self._over else self._waiting), None
            self._busy = found is not None
            return found

    def _take_back(self, files: Mapping[str, Artifact]) -> None:
        """Delete what nobody will ever refer to. No two checkpoints have a file in common."""
        try:
            for artifact in files.values():
                self._store.remove(artifact.sha256)
        except ServiceUnavailableError as error:
            # No reason for the attempt to end otherwise than it did.
            _log.warning("files of a superseded checkpoint not deleted", reason=error.message)

    def _upload(self, told: CheckpointWritten, held: Path) -> Mapping[str, Artifact]:
        found = {}
        for name in told.files:
            path = held / Path(name).name
            if not stat.S_ISREG(path.lstat().st_mode):
                message = f"The process left something that is no plain file: {name[:200]}."
                raise PlatformError(message, code="result_unusable")
            found[f"{told.folder}/{name}"] = Artifact(name=path.name, **self._store.put_file(path).model_dump())
        return found
