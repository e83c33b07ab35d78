"""A disk that can be full: a folder that is a file system of its own, of limited size (tmpfs). Needs root on Linux."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MEBIBYTES = 512
_BALLAST = ".ballast"
_CHUNK_BYTES = 2**20


def mountable() -> bool:
    """Whether this process may mount file systems."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(_mount(Path(folder)), capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


def _mount(folder: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTES}m,mode=0700", "thaw-chaos", str(folder)]


class Disk:
    """A folder with room for `MEBIBYTES`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made, and empty."""
        self._folder = folder
        self._ballast = folder / _BALLAST
        folder.mkdir()
        subprocess.run(_mount(folder), check=True)

    def fill(self) -> None:
        """Leave no room; to be repeated while somebody else deletes files."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (_CHUNK_BYTES, 4096):
                _write_until_full(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it; what was in it stays, in a plain folder. Nothing may use it any more."""
        self.free()
        kept = self._folder.with_name(f"{self._folder.name}-kept")
        shutil.copytree(self._folder, kept, symlinks=True, ignore=_not_plain)
        subprocess.run(["umount", "--lazy", self._folder], check=True)
        self._folder.rmdir()
        kept.rename(self._folder)


def _write_until_full(descriptor: int, content: bytes) -> None:
    try:
        while os.write(descriptor, content):
            pass
    except OSError:  # there is no room for so much
        return


def _not_plain(folder: str, names: list[str]) -> list[str]:
    """Sockets cannot be copied."""
    paths = {name: Path(folder) / name for name in names}
    return [name for name, path in paths.items() if not (path.is_file() or path.is_dir())]
