import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.domain.errors import ServiceUnavailableError
from app.standalone import programs


def test_a_free_port_stays_the_one_that_was_asked_for() -> None:
    with programs.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
    with programs.listen("127.0.0.1", port) as second:
        assert second.getsockname()[1] == port


def test_a_taken_port_is_said_with_the_fix() -> None:
    with programs.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceUnavailableError, match=rf"port {port}: Address already in use.*--port \(0 picks"):
            programs.listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"192\.0\.2\.1.*--host"):
        programs.listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8420"),
        ("0.0.0.0", "http://127.0.0.1:8420"),  # noqa: S104 (the point)
        ("::1", "http://[::1]:8420"),
        ("::", "http://[::1]:8420"),
        ("localhost", "http://localhost:8420"),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(host: str, url: str) -> None:
    assert programs.local_url(host, 8420) == url


def test_the_environment_says_where_everything_is_and_keeps_the_callers_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THAW_LEASE_SECONDS", "12")
    monkeypatch.setenv("THAW_PORT", "1")
    variables = programs.environment(
        data_dir=Path("/data"), host="127.0.0.1", port=5, redis_url="redis+socket:///data/run/broker.sock"
    )
    assert variables["THAW_LEASE_SECONDS"] == "12"
    assert variables["THAW_PORT"] == "5"
    assert variables["THAW_DATA_DIR"] == variables["THAW_STANDALONE"] == "/data"
    assert variables["THAW_REDIS_URL"] == "redis+socket:///data/run/broker.sock"


def fake_nvml(count: int, *, driver: bool = True) -> SimpleNamespace:
    def init() -> None:
        if not driver:
            raise OSError

    return SimpleNamespace(
        NVMLError=OSError, nvmlInit=init, nvmlDeviceGetCount=lambda: count, nvmlShutdown=lambda: None
    )


@pytest.mark.parametrize(
    ("nvml", "queues"),
    [
        (fake_nvml(2), "cpu,gpu,prepare"),
        (fake_nvml(0), "cpu,prepare"),
        (fake_nvml(2, driver=False), "cpu,prepare"),
        (None, "cpu,prepare"),
    ],
    ids=["gpus", "driver-without-gpu", "no-driver", "no-package"],
)
def test_the_gpu_queue_is_asked_for_where_the_driver_finds_gpus(
    monkeypatch: pytest.MonkeyPatch, nvml: SimpleNamespace | None, queues: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert programs.worker({}).command[-2:] == ["--queues", queues]


def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert programs.count_gpus() == 0


def test_a_folder_named_app_where_one_stands_does_not_hide_ours() -> None:
    assert programs.python_module("app.main")[1:] == ["-P", "-m", "app.main"]
