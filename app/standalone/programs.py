"""What the service consists of: commands and their environment."""

import os
import socket
import sys
from pathlib import Path

from app.domain.errors import ServiceUnavailableError
from app.standalone.folder import MARK
from app.standalone.processes import Program

QUEUES = frozenset({"cpu", "prepare"})
"""What the worker serves in any case; one that finds no GPU it may use leaves `gpu` to others."""
BACKLOG = 2048
"""Connections that may wait for the API."""


def environment(*, data_dir: Path, host: str, port: int, redis_url: str) -> dict[str, str]:
    """The caller's environment, and where everything is."""
    return {
        **os.environ,
        "THAW_DATA_DIR": str(data_dir),
        "THAW_HOST": host,
        "THAW_PORT": str(port),
        "THAW_REDIS_URL": redis_url,
        "PYTHONUNBUFFERED": "1",
        MARK: str(data_dir),
    }


def python_module(module: str, *arguments: str) -> list[str]:
    """`python -m module`; -P keeps a folder named `app` where the person stands from being taken for ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def api(variables: dict[str, str], listener: socket.socket) -> Program:
    """The HTTP API, on a socket that listens already."""
    descriptor = listener.fileno()
    return Program("api", python_module("app.main", "--fd", str(descriptor)), variables, descriptors=[descriptor])


def worker(variables: dict[str, str]) -> Program:
    """The worker. It trains, and meanwhile checks models and datasets: both from one TensorFlow in memory."""
    queues = "cpu,gpu,prepare" if count_gpus() else "cpu,prepare"
    return Program("worker", python_module("worker", "--queues", queues), variables)


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, as its driver says; 0 without one, or where `CUDA_VISIBLE_DEVICES` hides them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; 0 picks a free port.

    `thaw up` holds it and the API inherits it: the port stays ours, and who connects while the API is started
    again waits instead of being refused. Raises `ServiceUnavailableError` with the fix where it cannot listen.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Connections of a service that just ended do not keep the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        message = (
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port with --port (0 picks a "
            f"free one) or THAW_PORT, and an address of this machine with --host."
        )
        raise ServiceUnavailableError(message) from error
    return listener


def local_url(host: str, port: int) -> str:
    """How programs on this machine reach a service that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 (compared with)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
