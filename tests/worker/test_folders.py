"""Folders of attempts live as long as their attempts, however those end."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from worker import folders
from worker.engine import locks


def test_a_folder_is_gone_with_its_attempt(tmp_path: Path) -> None:
    with folders.attempt_folder(tmp_path / "work", "ftjob-1-1") as folder:
        (folder / "run").mkdir()
        (folder / "run" / "big").write_bytes(b"x")
        assert folder.name == "ftjob-1-1"
    assert list((tmp_path / "work").iterdir()) == []


def test_only_folders_of_the_dead_are_removed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from worker import folders\n"
        "with folders.attempt_folder(pathlib.Path(sys.argv[1]), 'ftjob-dead-1') as folder:\n"
        "    (folder / 'file').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with other, folders.attempt_folder(tmp_path, "ftjob-alive-1") as alive:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert folders.remove_stale(tmp_path) == []
        other.kill()
        other.wait()
        assert folders.remove_stale(tmp_path) == ["ftjob-dead-1"]
        assert alive.is_dir()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ftjob-alive-1", "ftjob-alive-1.lock"]


def test_nothing_to_remove_is_no_error(tmp_path: Path) -> None:
    assert folders.remove_stale(tmp_path / "none") == []


def test_who_waits_for_a_lock_that_is_deleted_gets_a_new_one(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []
    first = locks.take(path)
    assert first is not None

    def second() -> None:
        with locks.held(path):
            order.append("second")
            assert path.exists(), "it must hold the file that others see"

    thread = threading.Thread(target=second)
    thread.start()
    first.remove()
    order.append("first")
    first.release()
    thread.join(5)
    assert order == ["first", "second"]


def test_readers_share_and_keep_writers_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.held(path, shared=True), locks.held(path, shared=True):
        assert locks.take(path, wait=False) is None
    assert locks.take(path, wait=False) is not None
