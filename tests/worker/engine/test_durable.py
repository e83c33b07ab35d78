"""Files are replaced whole or not at all, on a full disk too."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.errors import PlatformError
from worker.engine import durable


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")
    with durable.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".keras"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_halfway_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write_half() -> None:
        with durable.replacing(path) as temporary:
            temporary.write_text("ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), durable.replacing(tmp_path / "report.json"):
        pass


def test_too_little_room_is_the_platforms_fault_and_said_in_megabytes(tmp_path: Path) -> None:
    durable.require_room(tmp_path, 1)
    with pytest.raises(PlatformError, match=r"1000000000000\.0 MB are needed and \d+\.\d MB are free") as caught:
        durable.require_room(tmp_path, 10**18)
    assert caught.value.failure().code == "storage_full"
    assert caught.value.failure().retryable


FULL_DISK = """
import os, pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True)
from worker.engine import durable
durable.write_text(folder / "report.json", "old")
try:
    durable.write_text(folder / "report.json", "x" * 200_000)
except OSError as error:
    assert error.errno in durable.NO_ROOM, error
    print((folder / "report.json").read_text(), os.listdir(folder))
"""


def test_a_full_disk_costs_neither_the_old_file_nor_leaves_a_half_one(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", tmp_path], check=False).returncode:
        pytest.skip("this machine lets no user mount a small disk of his own")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "old ['report.json']\n", done.stderr
