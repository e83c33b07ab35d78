"""Checkpoints: everything needed to go on exactly, in folders that are there in full or not at all.

    checkpoints/resume-000007/
        weights.safetensors     every variable of the model that training may have moved so far
        random.safetensors      states of all random seed generators
        optimizer.safetensors   the optimizer's variables, in their order
        best.safetensors        the weights of the phase's best epoch, where early stopping wants them
        start.safetensors       the same, where the next phase starts from them
        meta.json               `Meta`: where in the schedule, history, early stopping, fingerprints, wall times
        manifest.json           sha256 and bytes of each file, format, job, versions, device; written last

Variables that nothing has moved yet are left out: they are rebuilt bit for bit from source and seed. A folder is put
together under a temporary name, synced, and renamed. The last two are kept, and the one with the lowest validation
loss of its phase. What does not verify when it is read is refused, and the one before is used.
"""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.domain.base import Value
from app.domain.progress import EpochFinished, PhaseProgress
from app.domain.report import PhaseReport
from app.domain.spec import ResolvedSpec
from worker.engine import durable
from worker.engine.identity import Identity, belongs
from worker.engine.stopping import StoppingState

FOLDER = "checkpoints"
META = "meta.json"
MANIFEST = "manifest.json"
FORMAT = 1
KEPT = 2
PATIENCE = 50
"""A checkpoint at the end of an epoch is left out until 50 times as long has passed as the one before it took to
write: they cost a run at most 2 % of its time, and a kill at most the work of 50 checkpoints."""

Arrays = Mapping[str, np.ndarray[Any, Any]]
Part = Literal["weights", "random", "optimizer", "best", "start"]
PARTS: tuple[Part, ...] = ("weights", "random", "optimizer", "best", "start")


class Surroundings(Value):
    """What decides the last bits of the numbers."""

    versions: dict[str, str]
    device: str
    machine: str
    usable_cores: str | None = None
    """`None`: the version that wrote this did not say."""


class Fingerprints(Value):
    """sha256 of each weight at the start of the phase, for the freeze proof."""

    frozen: dict[str, str]
    trained: dict[str, str]


class Sums(Value):
    """The metrics of the epoch in progress, added up so far."""

    total: list[float]
    steps: int


class Meta(Value):
    """Where a run was, and what it remembered."""

    token: str = Field(default_factory=lambda: secrets.token_hex(16))
    """Drawn by chance and written into every file: no file equals one of another checkpoint, so that in a store that
    keeps equal bytes once, each may be deleted without asking who else needs it."""
    identity: Identity
    surroundings: Surroundings
    spec: dict[str, Any]
    """The resolved spec, as it was trained."""
    phase: PhaseProgress
    """`epoch`: how many have ended in this phase."""
    phase_finished: bool
    """Whether the phase has ended, with its proof."""
    epoch_steps: int
    """Steps done of the epoch in progress; 0 between two epochs."""
    sums: Sums
    stopping: StoppingState | None
    start_loss: float | None
    """The lowest validation loss of the phase, where the next one starts from its best epoch."""
    fingerprints: Fingerprints | None
    """`None` once the phase has ended."""
    cached: bool | None = None
    """Whether the phase trains on cached features; `None`: it has ended, or the version that wrote this did not say."""
    steps: int
    """Optimizer steps since the start of the job."""
    history: list[EpochFinished]
    phases: list[PhaseReport]
    """Of the phases that have ended."""
    phase_seconds: float
    seconds: dict[str, float]
    """By stage, as the report has them."""

    @property
    def val_loss(self) -> float | None:
        """Of the epoch that has just ended; `None` within one."""
        return self.history[-1].metrics.get("val_loss") if self.history and not self.epoch_steps else None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    meta: Meta
    arrays: Mapping[Part, Arrays]


@dataclass(frozen=True)
class Refusal:
    """A checkpoint that cannot be used."""

    name: str
    reason: str


class _Unusable(Exception):  # noqa: N818 (never leaves this module)
    """Why a folder is no checkpoint of this job."""


class Checkpoints:
    """The checkpoints of one run, in its working folder."""

    def __init__(self, workdir: Path, identity: Identity) -> None:
        self.identity = identity
        self.refused: list[Refusal] = []
        """What `newest` could not use, and why."""
        self.kept_steps = 0
        """Optimizer steps of the job at the newest one; 0 if there is none."""
        self._workdir = workdir
        self._folder = workdir / FOLDER
        self._losses: dict[int, tuple[int, float]] = {}
        """Index of the phase and validation loss, by number."""
        self._next_at = 0.0

    def newest(self) -> Checkpoint | None:
        """The newest one of this job that verifies; others are listed in `refused` and deleted."""
        for number, folder in reversed(list(_numbered(self._folder))):
            try:
                found = _read(folder, self.identity)
            except _Unusable as error:
                self.refused.append(Refusal(folder.name, str(error)))
                shutil.rmtree(folder)
                continue
            self._note_older(than=number)
            self._note(number, found.meta)
            return found
        return None

    def best_within(self, phase_index: int) -> Checkpoint | None:
        """The one after the epoch of this phase with the lowest validation loss, of those that verify."""
        there = dict(_numbered(self._folder))
        for number in self._best_first(phase_index):
            with suppress(_Unusable):
                return _read(there[number], self.identity)
        return None

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() >= self._next_at

    def write(self, checkpoint: Checkpoint) -> tuple[int, Path]:
        """Write one more; its number and folder. Raises `PlatformError` (code `storage_full`)."""
        started = time.monotonic()
        needed = sum(array.nbytes for arrays in checkpoint.arrays.values() for array in arrays.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        durable.require_room(self._workdir, needed)
        number = max((number for number, _ in _numbered(self._folder)), default=0) + 1
        folder = self._folder / f"resume-{number:06d}"
        _write(folder, checkpoint)
        self._note(number, checkpoint.meta)
        self._forget_old(checkpoint.meta.phase.index)
        self._next_at = time.monotonic() + PATIENCE * (time.monotonic() - started)
        return number, folder

    def clear(self) -> None:
        """Delete all of them: there is nothing left to go on with."""
        for _, folder in _numbered(self._folder):
            shutil.rmtree(folder)

    def _note(self, number: int, meta: Meta) -> None:
        self.kept_steps = meta.steps
        self._note_loss(number, meta)

    def _note_older(self, *, than: int) -> None:
        """They were written before this run began, and one of them may be the best."""
        for number, folder in _numbered(self._folder):
            if number < than:
                with suppress(_Unusable):
                    self._note_loss(number, _read_meta(folder, self.identity))

    def _note_loss(self, number: int, meta: Meta) -> None:
        if meta.val_loss is not None:
            self._losses[number] = meta.phase.index, meta.val_loss

    def _best_first(self, phase_index: int) -> list[int]:
        """Those that are there from after epochs of this phase; of equals the first comes first."""
        there = [number for number, _ in _numbered(self._folder) if number in self._losses]
        return sorted(
            (number for number in there if self._losses[number][0] == phase_index),
            key=lambda number: self._losses[number][1],
        )

    def _forget_old(self, phase_index: int) -> None:
        there = dict(_numbered(self._folder))
        for number in set(there) - set(sorted(there)[-KEPT:]) - set(self._best_first(phase_index)[:1]):
            shutil.rmtree(there[number])


def latest_spec(workdir: Path) -> ResolvedSpec | None:
    """The spec of the newest checkpoint in a working folder, as it says itself; `None` if there is none to read."""
    for _, folder in reversed(list(_numbered(workdir / FOLDER))):
        try:
            return ResolvedSpec.model_validate(Meta.model_validate_json((folder / META).read_bytes()).spec)
        except (OSError, ValidationError):
            continue
    return None


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of all that are complete, the oldest first."""
    for path in sorted(folder.glob("resume-*")):
        number = path.name.removeprefix("resume-")
        if number.isdecimal() and path.is_dir():
            yield int(number), path


# === Write ===


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for part in PARTS:
            _write_part(temporary, part, checkpoint.arrays.get(part, {}), token=checkpoint.meta.token)
        (temporary / META).write_text(checkpoint.meta.model_dump_json(indent=1), encoding="utf-8")
        (temporary / MANIFEST).write_text(_manifest(temporary, checkpoint.meta), encoding="utf-8")
        durable.publish_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_part(folder: Path, part: Part, arrays: Arrays, *, token: str) -> None:
    if arrays:
        ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(ordered, folder / f"{part}.safetensors", {"token": token})


def _manifest(folder: Path, meta: Meta) -> str:
    content: dict[str, Any] = {
        "format": FORMAT,
        "identity": meta.identity.model_dump(),
        "surroundings": meta.surroundings.model_dump(),
        "files": {
            path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in sorted(folder.iterdir())
        },
    }
    return json.dumps({**content, "digest": _digest(content)}, indent=1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# === Read ===


def _read(folder: Path, identity: Identity) -> Checkpoint:
    meta = _read_meta(folder, identity)
    with _unusable():
        return Checkpoint(meta, {part: _load_part(folder, part) for part in PARTS})


def _read_meta(folder: Path, identity: Identity) -> Meta:
    """Of one that verifies in full."""
    with _unusable():
        _verify(folder)
        meta = Meta.model_validate_json((folder / META).read_bytes())
    if not belongs(meta.identity, meta.spec, to=identity):
        message = "it belongs to another job: spec, source or dataset differ"
        raise _Unusable(message)
    return meta


@contextmanager
def _unusable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        message = f"it cannot be read: {' '.join(str(error).split())[:200]}"
        raise _Unusable(message) from error


def _verify(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    content = {name: value for name, value in manifest.items() if name != "digest"}
    if manifest.get("digest") != _digest(content):
        message = f"{MANIFEST} is damaged"
        raise _Unusable(message)
    if manifest["format"] != FORMAT:
        message = f"its format is {manifest['format']}, this version of Thaw reads {FORMAT}"
        raise _Unusable(message)
    for name, told in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != told["bytes"] or _sha256(path) != told["sha256"]:
            message = f"{name} is damaged or missing"
            raise _Unusable(message)


def _load_part(folder: Path, part: Part) -> Arrays:
    path = folder / f"{part}.safetensors"
    return load_file(path) if path.is_file() else {}
