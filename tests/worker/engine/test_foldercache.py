import errno
import os
from pathlib import Path
from typing import Any

import pytest

from worker.engine.foldercache import FolderCache


def write(size: int) -> object:
    def fill(empty: Path) -> None:
        (empty / "content").write_bytes(b"x" * size)

    return fill


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def use(cache: FolderCache, key: str, size: int, scratch: Path) -> None:
    with cache.folder(key, write(size), scratch=scratch) as found:  # type: ignore[arg-type]
        assert (found / "content").stat().st_size == size


def test_a_folder_is_filled_once(folder: Path, tmp_path: Path) -> None:
    cache, filled = FolderCache(folder, max_bytes=100), []

    def fill(empty: Path) -> None:
        filled.append(empty)
        (empty / "content").write_text("x")

    for _ in range(3):
        with cache.folder("a", fill, scratch=tmp_path) as found:
            assert (found / "content").read_text() == "x"
    assert len(filled) == 1


def test_the_least_recently_used_go_first(folder: Path, tmp_path: Path) -> None:
    deleted: list[str] = []
    cache = FolderCache(folder, max_bytes=25, deleted=deleted.append)
    for key in "ab":
        use(cache, key, 10, tmp_path)
    use(cache, "a", 10, tmp_path)
    use(cache, "c", 10, tmp_path)
    assert names(folder) == {"a", "c"}
    assert deleted == ["b"]
    assert not (folder / "b.lock").exists()


def test_what_is_in_use_stays_however_full_the_cache_is(folder: Path, tmp_path: Path) -> None:
    cache = FolderCache(folder, max_bytes=0)
    with cache.folder("a", write(10), scratch=tmp_path) as found:  # type: ignore[arg-type]
        use(FolderCache(folder, max_bytes=0), "b", 10, tmp_path)
        assert names(folder) == {"a"}
        assert (found / "content").exists()
    assert names(folder) == set()


def test_what_could_not_be_filled_is_not_there(folder: Path, tmp_path: Path) -> None:
    def fill(empty: Path) -> None:
        (empty / "half").write_text("x")
        message = "no"
        raise ValueError(message)

    with pytest.raises(ValueError, match="no"), FolderCache(folder, max_bytes=9).folder("a", fill, scratch=tmp_path):
        pass
    assert names(folder) == set()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_of_two_who_fill_at_once_both_get_the_same_folder(folder: Path, tmp_path: Path) -> None:
    cache = FolderCache(folder, max_bytes=100)

    def fill(empty: Path) -> None:
        use(cache, "a", 1, tmp_path)  # somebody else is faster
        (empty / "content").write_bytes(b"y")

    with cache.folder("a", fill, scratch=tmp_path) as found:
        assert (found / "content").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


class Died(BaseException):
    """The process is gone; nobody catches this."""


def die_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting a folder gets as far as its first file."""
    unlink, left = os.unlink, [1]

    def one(path: Any, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:  # a file of a folder that goes as a whole
            if not left:
                raise Died
            left.pop()
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", one)


def test_a_process_that_dies_while_it_deletes_leaves_nothing_that_another_takes_for_complete(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FolderCache(folder, max_bytes=100)

    def fill(empty: Path) -> None:
        for name in ("one", "two", "three"):
            (empty / name).write_text("x")

    with cache.folder("a", fill, scratch=tmp_path):
        pass
    with monkeypatch.context() as dying:
        die_within(dying)
        with pytest.raises(Died):
            FolderCache(folder, max_bytes=0).shrink()
    assert len(list(folder.rglob("*/*"))) == 2, "it died within"
    with cache.folder("a", fill, scratch=tmp_path) as found:
        assert len(list(found.iterdir())) == 3
    assert names(folder) == {"a"}, "what it left goes with the next deletions"


def test_a_disk_too_full_for_another_name_keeps_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FolderCache(folder, max_bytes=100), "a", 10, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as room:
        room.setattr(Path, "rename", full)
        FolderCache(folder, max_bytes=0).shrink()
    assert names(folder) == {"a"}
    FolderCache(folder, max_bytes=0).shrink()
    assert list(folder.iterdir()) == []


def test_a_folder_has_its_name_when_its_files_are_on_the_disk_and_then_that_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        fsync(descriptor)
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")

    def note_rename(source: Path, target: Path) -> None:
        rename(source, target)
        happened.append(f"{source.relative_to(tmp_path)} is {target.relative_to(tmp_path)}")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)

    def fill(empty: Path) -> None:
        for name in ("one", "two"):
            (empty / name).touch(0o440)

    with FolderCache(folder, max_bytes=100).folder("a", fill, scratch=tmp_path):
        temporary = happened[2].removeprefix("sync ")
        assert set(happened[:2]) == {f"sync {temporary}/one", f"sync {temporary}/two"}
        assert happened[2:] == [f"sync {temporary}", f"{temporary} is cache/a", "sync cache"]
