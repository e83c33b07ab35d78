import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.domain.errors import ConflictError, ServiceUnavailableError
from app.standalone import folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    folder.make_private(path)
    return path


def test_folders_are_made_for_their_owner_only(run_dir: Path) -> None:
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceUnavailableError, match=r"file/data cannot be made \(Not a directory\).*--data-dir"):
        folder.make_private(tmp_path / "file" / "data")


def test_a_second_service_on_a_folder_is_told_where_the_first_one_is(run_dir: Path) -> None:
    note = folder.ServiceNote(url="http://127.0.0.1:8420", pid=os.getpid(), api_key_file="key")
    with folder.held(run_dir):
        folder.write_note(run_dir, note)
        with (
            pytest.raises(ConflictError, match=rf"at http://127\.0\.0\.1:8420 \(process {os.getpid()}\)"),
            folder.held(run_dir),
        ):
            pass


def test_a_second_service_while_the_first_one_starts_is_told_so(run_dir: Path) -> None:
    with folder.held(run_dir), pytest.raises(ConflictError, match="just starting"), folder.held(run_dir):
        pass


def test_a_folder_is_free_again_after_a_clean_end(run_dir: Path) -> None:
    with folder.held(run_dir) as unclean:
        assert not unclean
    with folder.held(run_dir) as unclean:
        assert not unclean


def test_a_disk_without_a_byte_of_room_is_told_of(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with (
        pytest.raises(ServiceUnavailableError, match=r"lock cannot be written \(No space left on device\). Make room"),
        folder.held(run_dir),
    ):
        pass


def test_a_killed_holder_leaves_the_folder_free_and_marked(run_dir: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from app.standalone import folder
with folder.held(Path({str(run_dir)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with folder.held(run_dir) as unclean:
        assert unclean


def test_the_note_is_replaced_as_a_whole_and_for_its_owner_only(run_dir: Path) -> None:
    assert folder.read_note(run_dir) is None
    for port in (1, 2):
        folder.write_note(run_dir, folder.ServiceNote(url=f"http://127.0.0.1:{port}", pid=3, api_key_file="key"))
    assert folder.read_note(run_dir) == {"url": "http://127.0.0.1:2", "pid": 3, "api_key_file": "key"}
    assert stat.S_IMODE((run_dir / "service.json").stat().st_mode) == 0o600
    assert [path.name for path in run_dir.iterdir()] == ["service.json"]
    folder.remove_note(run_dir)
    folder.remove_note(run_dir)
    assert folder.read_note(run_dir) is None


def sleeper(mark: str, *, stubborn: bool = False) -> subprocess.Popen[bytes]:
    script = "import signal, time\n"
    script += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    script += "print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, folder.MARK: mark}, stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    return process


@pytest.fixture
def others() -> Iterator[subprocess.Popen[bytes]]:
    process = sleeper("/another/folder")
    yield process
    process.kill()
    process.wait()


@pytest.mark.service
def test_leftovers_of_this_folder_are_ended_and_those_of_others_are_not(
    tmp_path: Path, others: subprocess.Popen[bytes]
) -> None:
    polite, stubborn = sleeper(str(tmp_path)), sleeper(str(tmp_path), stubborn=True)
    ended = folder.stop_leftovers(tmp_path, grace_seconds=0.5)
    assert sorted(ended) == sorted([f"process {polite.pid}", f"process {stubborn.pid}"])
    assert not psutil.pid_exists(polite.pid)
    assert not psutil.pid_exists(stubborn.pid)
    polite.wait()
    stubborn.wait()
    assert others.poll() is None


@pytest.mark.service
def test_a_service_never_takes_itself_or_its_parents_for_leftovers(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from app.standalone import folder
print(folder.stop_leftovers(Path({str(tmp_path)!r}), grace_seconds=0.1))
"""
    nested = f"import subprocess, sys; raise SystemExit(subprocess.call([sys.executable, '-c', {script!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", nested],
        env={**os.environ, folder.MARK: str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "[]\n"
    assert psutil.pid_exists(os.getpid())
