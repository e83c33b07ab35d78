"""What the service consists of: commands and their environment."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from app.domain.errors import ServiceUnavailableError
from app.standalone.folder import MARK
from app.standalone.processes import Program


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


def api(variables: dict[str, str]) -> Program:
    """The HTTP API."""
    return Program("api", python_module("app.main"), variables)


def workers(variables: dict[str, str]) -> list[Program]:
    """One worker that trains, one that checks models and datasets, so that uploads do not wait for trainings."""
    training = "cpu,gpu" if count_gpus() else "cpu"
    return [
        Program("worker", python_module("worker", "--queues", training), variables),
        Program("preparer", python_module("worker", "--queues", "prepare"), variables),
    ]


def queues(programs: Sequence[Program]) -> set[str]:
    """The queues that these workers serve."""
    return {queue for program in programs for queue in program.command[-1].split(",")}


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, as its driver says; 0 without one."""
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


def choose_port(host: str, port: int) -> int:
    """The port to listen on: `port` itself if it is free, any free one for 0.

    Raises `ServiceUnavailableError` with the fix where the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the API does it: connections of a service that just ended do not keep the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        message = (
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port with --port (0 picks a "
            f"free one) or THAW_PORT, and an address of this machine with --host."
        )
        raise ServiceUnavailableError(message) from error


def local_url(host: str, port: int) -> str:
    """How programs on this machine reach a service that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 (compared with)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
