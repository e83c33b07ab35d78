"""How much memory a process and the machine have, and whether the kernel had to kill for it."""

import sys
from pathlib import Path

import psutil


def process_bytes(pid: int) -> int:
    """Memory of a process that it does not share: memory-mapped datasets are left out. 0 if it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss) - int(getattr(memory, "shared", 0))


def machine_bytes() -> int:
    """What processes here may use together: the machine's memory, or its container's limit."""
    limit = _read(_cgroup() / "memory.max")
    total = int(psutil.virtual_memory().total)
    return min(total, int(limit)) if limit.isdecimal() else total


def oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory so far, in our container or on this machine."""
    here = _counter(_cgroup() / "memory.events", "oom_kill")
    return here if here is not None else _counter(Path("/proc/vmstat"), "oom_kill") or 0


def _cgroup() -> Path:
    """The folder of this process's control group (version 2); one that does not exist where there is none."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            return Path("/sys/fs/cgroup") / path.lstrip("/")
    return Path("/sys/fs/cgroup")


def _counter(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _read(path: Path) -> str:
    """Empty where the system has no such file."""
    if sys.platform != "linux":
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, PermissionError):
        return ""
