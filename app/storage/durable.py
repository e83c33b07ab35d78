"""What survives a power cut: a file's bytes after fsync, its name after fsync of the folder."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, *, root: Path) -> None:
    """Make a folder and those above it, up to `root`, which is there; their names are durable afterwards."""
    if folder == root or folder.is_dir():
        return
    make_folders(folder.parent, root=root)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
