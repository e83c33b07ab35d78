"""GPUs are found through NVML, and each is lent to one job at a time."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.domain.errors import PlatformError
from worker import devices, gpus, program
from worker.devices import CPU, Device, DevicePool
from worker.gpus import Gpu


class FakeNvml:
    """NVML of a machine with so many GPUs; `broken`: of one without the driver."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int, *, broken: bool = False) -> None:
        self.count = count
        self.broken = broken
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            message = "Driver Not Loaded"
            raise self.NVMLError(message)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        assert self.open
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}aaa-bbb"

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return f"NVIDIA H{handle}00".encode()

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=(handle + 1) * 1024**3)


def _found(count: int, visible: str | None = None) -> list[str]:
    return [gpu.uuid for gpu in gpus.find(FakeNvml(count), visible=visible)]


def test_gpus_are_found_with_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml(2)
    assert gpus.find(nvml) == [
        Gpu(index=0, uuid="GPU-0aaa-bbb", name="NVIDIA H000", memory_bytes=1024**3),
        Gpu(index=1, uuid="GPU-1aaa-bbb", name="NVIDIA H100", memory_bytes=2 * 1024**3),
    ]
    assert nvml.open == 0


def test_a_machine_without_the_driver_has_none() -> None:
    assert gpus.find(FakeNvml(2, broken=True)) == []


def test_the_real_library_answers_here_whatever_this_machine_has() -> None:
    assert all(gpu.uuid.startswith(("GPU-", "MIG-")) for gpu in gpus.find())


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["GPU-1aaa-bbb"]),
        ("2,0", ["GPU-2aaa-bbb", "GPU-0aaa-bbb"]),
        ("GPU-1", ["GPU-1aaa-bbb"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["GPU-0aaa-bbb"]),  # CUDA stops at the first that is not there
        ("GPU-", []),  # fits several
    ],
)
def test_a_worker_may_be_kept_to_some_gpus(visible: str, expected: Sequence[str]) -> None:
    assert _found(3, visible) == expected


def test_a_worker_without_gpus_takes_nothing_that_waits_for_one() -> None:
    gpu = Gpu(index=0, uuid="GPU-0", name="NVIDIA H200", memory_bytes=1)
    assert list(program._served(["cpu", "gpu"], [])) == ["cpu"]
    assert list(program._served(["cpu", "gpu"], [gpu])) == ["cpu", "gpu"]
    with pytest.raises(PlatformError, match="no NVIDIA GPU"):
        program._served(["gpu"], [])


# === Devices ===

ONE, TWO = (Gpu(index=number, uuid=f"GPU-{number}", name="NVIDIA H200", memory_bytes=1024**3) for number in range(2))


@pytest.mark.parametrize(
    ("found", "slots", "expected"),
    [
        ([], 0, [CPU]),
        ([], 3, [CPU, CPU, CPU]),
        ([ONE, TWO], 0, [Device(ONE), Device(TWO)]),
        ([ONE, TWO], 1, [Device(ONE)]),
        ([ONE, TWO], 5, [Device(ONE), Device(TWO)]),
    ],
)
def test_there_is_one_job_for_each_gpu_or_one_on_the_processor(
    found: list[Gpu], slots: int, expected: list[Device]
) -> None:
    assert devices.choose(found, slots=slots) == expected


def test_a_training_process_sees_its_own_gpu_only_and_takes_memory_as_it_needs_it() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "GPU-1", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    assert Device(TWO).environment() == environment


def test_a_training_process_on_the_processor_sees_no_gpu() -> None:
    assert CPU.environment() == {"CUDA_VISIBLE_DEVICES": "-1"}


def test_a_gpu_is_lent_to_one_at_a_time(tmp_path: Path) -> None:
    pool = DevicePool([Device(ONE), Device(TWO)], lock_dir=tmp_path)
    with pool.borrow() as first, pool.borrow() as second, pool.borrow() as third:
        assert {first, second} == {Device(ONE), Device(TWO)}
        assert third is None
    with pool.borrow() as again:
        assert again is not None


def test_two_workers_of_a_machine_do_not_share_a_gpu(tmp_path: Path) -> None:
    here, there = (DevicePool([Device(ONE)], lock_dir=tmp_path) for _ in range(2))
    with here.borrow() as mine, there.borrow() as theirs:
        assert mine == Device(ONE)
        assert theirs is None
    with there.borrow() as theirs:
        assert theirs == Device(ONE)


def test_a_worker_that_was_killed_holds_no_gpu(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from worker.devices import *; from worker.gpus import Gpu\n"
        "pool = DevicePool([Device(Gpu(0, 'GPU-0', 'x', 1))], lock_dir=pathlib.Path(sys.argv[1]))\n"
        "with pool.borrow() as device: print(device is not None, flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    pool = DevicePool([Device(ONE)], lock_dir=tmp_path)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with pool.borrow() as device:
            assert device is None, "the other one holds it"
        other.kill()
    with pool.borrow() as device:
        assert device == Device(ONE)
