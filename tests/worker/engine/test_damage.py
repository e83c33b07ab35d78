"""Whatever happens to a checkpoint's files, wherever in them, it is noticed, and the one before is used."""

import errno
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.progress import EpochFinished, PhaseProgress
from worker.engine import checkpoint
from worker.engine.checkpoint import PARTS, Checkpoint, Checkpoints, Fingerprints, Meta, Sums, Surroundings
from worker.engine.identity import Identity

IDENTITY = Identity(spec="s", source="m", dataset="d")
FILES = (*(f"{part}.safetensors" for part in PARTS), "meta.json", "manifest.json")
CASES = 56


def made(steps: int, *, val_loss: float | None = None) -> Checkpoint:
    """A checkpoint with every part that there can be; the later the better, unless `val_loss` says otherwise."""
    place = PhaseProgress(index=1, name="head", epoch=steps, epochs=9)
    meta = Meta(
        identity=IDENTITY,
        surroundings=Surroundings(versions={"keras": "3"}, device="cpu", machine="x86_64"),
        spec={"batch_size": 32},
        phase=place,
        phase_finished=False,
        epoch_steps=0,
        sums=Sums(total=[0.0, 0.0, 0.0], steps=0),
        stopping=None,
        start_loss=None,
        fingerprints=Fingerprints(frozen={"a": "1"}, trained={"b": "2"}),
        steps=steps,
        history=[EpochFinished(phase=place, step=steps, metrics={"val_loss": val_loss or 1 / steps})],
        phases=[],
        phase_seconds=1.0,
        seconds={},
    )
    values = np.random.default_rng(steps)
    return Checkpoint(
        meta, {part: {"w": values.normal(size=(40, 5)).astype("float32"), "n": np.array(steps)} for part in PARTS}
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the checkpoints of step 1 and step 2."""
    folder = tmp_path_factory.mktemp("two")
    for steps in (1, 2):
        Checkpoints(folder, IDENTITY).write(made(steps))
    return folder


def newest(folder: Path) -> tuple[int, list[str]]:
    """Steps of the one that is used, and the names of those that are not."""
    checkpoints = Checkpoints(folder, IDENTITY)
    found = checkpoints.newest()
    return 0 if found is None else found.meta.steps, [refusal.name for refusal in checkpoints.refused]


@pytest.mark.parametrize("case", range(CASES))
def test_damage_anywhere_is_noticed(case: int, two: Path, tmp_path: Path) -> None:
    draw = random.Random(case)  # noqa: S311 (reproducible, not secret)
    shutil.copytree(two / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "resume-000002" / FILES[case % len(FILES)]
    content = bytearray(path.read_bytes())
    position = draw.randrange(len(content))
    how = ("flip", "truncate", "extend", "zero")[case // len(FILES) % 4]
    if how == "flip":
        content[position] ^= 1 << draw.randrange(8)
    elif how == "truncate":
        del content[position:]
    elif how == "extend":
        content += draw.randbytes(1 + position)
    else:  # a hole, as file systems leave it after a power cut
        content[position // 2 :] = bytes(len(content) - position // 2)
    path.write_bytes(content)
    assert newest(tmp_path) == (1, ["resume-000002"])


def test_what_is_whole_is_used(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "checkpoints", tmp_path / "checkpoints")
    assert newest(tmp_path) == (2, [])


def test_files_of_another_checkpoint_do_not_pass(two: Path, tmp_path: Path) -> None:
    for name in FILES:
        folder = tmp_path / name
        shutil.copytree(two / "checkpoints", folder / "checkpoints")
        shutil.copy(folder / "checkpoints" / "resume-000001" / name, folder / "checkpoints" / "resume-000002" / name)
        assert newest(folder) == (1, ["resume-000002"])


def test_the_best_one_of_an_earlier_run_counts_and_if_it_is_damaged_the_next_best_does(tmp_path: Path) -> None:
    before = Checkpoints(tmp_path, IDENTITY)
    for steps in (1, 2, 3, 4):
        before.write(made(steps, val_loss=steps / 10))
    for expected in (1, 3):
        checkpoints = Checkpoints(tmp_path, IDENTITY)
        found, best = checkpoints.newest(), checkpoints.best_within(1)
        assert found is not None
        assert best is not None
        assert (found.meta.steps, checkpoints.kept_steps, best.meta.steps) == (4, 4, expected)
        assert checkpoints.refused == []
        (tmp_path / "checkpoints" / "resume-000001" / "weights.safetensors").write_bytes(b"")
    checkpoints.write(made(5, val_loss=0.5))
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]
    assert checkpoints.best_within(2) is None


# === No room ===


@pytest.mark.parametrize("at", range(len(PARTS)))
def test_a_disk_that_is_full_at_any_file_costs_the_new_one_alone(
    at: int, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(two / "checkpoints", tmp_path / "checkpoints")
    written: list[Path] = []
    save = checkpoint.save_file

    def full(arrays: Any, path: Path, metadata: Any) -> None:
        save(arrays, path, metadata)
        written.append(path)
        if len(written) > at:
            path.write_bytes(path.read_bytes()[:50])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path, IDENTITY).write(made(3))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["resume-000001", "resume-000002"]
    assert newest(tmp_path) == (2, [])


SMALL_DISK = """
import pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(folder)], check=True)
from test_damage import IDENTITY, made, newest
from worker.engine.checkpoint import Checkpoints
from worker.engine import durable
durable.require_room = lambda *_: None  # two may find the same room free
written, steps = Checkpoints(folder, IDENTITY), 0
try:
    while steps < 99:
        written.write(made(steps + 1))
        steps += 1
        if steps == 2:
            (folder / "others").write_bytes(bytes(folder.stat().st_size + 32 * 1024))
except Exception as error:
    assert "space" in str(error), repr(error)
    (folder / "others").unlink(missing_ok=True)
    assert newest(folder) == (steps, []), newest(folder)
    Checkpoints(folder, IDENTITY).write(made(steps + 1))
    print("full, then", newest(folder)[0] - steps, "more")
"""


def test_on_a_disk_that_is_really_full_the_last_one_stays_and_with_room_it_goes_on(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", tmp_path], check=False).returncode:
        pytest.skip("this machine lets no user mount a small disk of his own")
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}\n{SMALL_DISK}"
    done = subprocess.run(
        [*namespace, sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "full, then 1 more\n", done.stderr
