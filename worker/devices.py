"""Devices: what a job trains on. One job for each GPU; a worker without GPUs trains on the processor.

Who sees what is settled by the environment of the training process, before TensorFlow looks.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.engine import locks
from worker.gpus import Gpu


@dataclass(frozen=True)
class Device:
    """The processor, or one GPU."""

    gpu: Gpu | None = None

    @property
    def name(self) -> str:
        """`cpu`, or the GPU's name, such as `NVIDIA H200`."""
        return self.gpu.name if self.gpu else "cpu"

    def environment(self) -> dict[str, str]:
        """What a training process must find in its environment to use this device and no other."""
        if self.gpu is None:
            return {"CUDA_VISIBLE_DEVICES": "-1"}
        return {"CUDA_VISIBLE_DEVICES": self.gpu.uuid, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


CPU = Device()


def choose(gpus: Sequence[Gpu], *, slots: int) -> list[Device]:
    """One device for each job at once, at most `slots`; without GPUs the processor that often (0: once)."""
    on_gpus = [Device(gpu) for gpu in gpus]
    return on_gpus[: slots or None] or [CPU] * max(slots, 1)


class DevicePool:
    """Lends out devices, each to one at a time. GPUs are shared with the other workers of this machine."""

    def __init__(self, devices: Sequence[Device], *, lock_dir: Path) -> None:
        self._free = list(devices)
        self._lock_dir = lock_dir
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Device | None]:
        """A device that nobody uses; `None` if all are in use."""
        with contextlib.ExitStack() as stack:
            yield self._take(stack)

    def _take(self, stack: contextlib.ExitStack) -> Device | None:
        with self._mutex:
            for device in self._free:
                lock = self._lock(device)
                if device.gpu and lock is None:
                    continue
                self._free.remove(device)
                stack.callback(self._give_back, device)
                if lock:
                    stack.callback(lock.release)
                return device
        return None

    def _lock(self, device: Device) -> locks.Lock | None:
        if device.gpu is None:
            return None
        self._lock_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return locks.take(self._lock_dir / f"{device.gpu.uuid}.lock", wait=False)

    def _give_back(self, device: Device) -> None:
        with self._mutex:
            self._free.append(device)
