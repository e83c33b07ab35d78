"""GPUs of this machine, as NVIDIA's management library (NVML) knows them. Needs the driver only, and no CUDA."""

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    """Position on the PCI bus, as `nvidia-smi` counts."""
    uuid: str
    """What `CUDA_VISIBLE_DEVICES` takes: `GPU-…`."""
    name: str
    memory_bytes: int


class Nvml(Protocol):
    """The functions of `pynvml` that are used."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102, N802 (NVML's own names, here and below)
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: ANN401, D102, N802 (a handle of C)
    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: ANN401, D102, N802


def find(nvml: Nvml | None = None, *, visible: str | None = None) -> list[Gpu]:
    """The GPUs that this worker may use. A machine without NVIDIA's driver has none, which is no error.

    `visible`: what `CUDA_VISIBLE_DEVICES` says of the worker itself (`None`: what the environment says), so that a
    worker can be kept to some of them: indices or the beginnings of UUIDs, as CUDA reads them.
    """
    library = nvml or _pynvml()
    if library is None:
        return []
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        _log.info("no GPUs", reason=str(error))
        return []
    try:
        found = [_gpu(library, index) for index in range(library.nvmlDeviceGetCount())]
    finally:
        library.nvmlShutdown()
    return _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)


def _pynvml() -> Nvml | None:
    try:
        import pynvml
    except ImportError:
        return None
    return cast("Nvml", cast("ModuleType", pynvml))


def _gpu(library: Nvml, index: int) -> Gpu:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=_text(library.nvmlDeviceGetUUID(handle)),
        name=_text(library.nvmlDeviceGetName(handle)),
        memory_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: str | bytes) -> str:
    """Older versions of the library gave bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _visible(gpus: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Like CUDA: in the order asked for, up to the first entry that fits none."""
    if wanted is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in wanted.split(","):
        fitting = [gpu for gpu in gpus if _fits(gpu, entry.strip())]
        if len(fitting) != 1 or fitting[0] in chosen:
            break
        chosen += fitting
    return chosen


def _fits(gpu: Gpu, entry: str) -> bool:
    return gpu.index == int(entry) if entry.isdecimal() else bool(entry) and gpu.uuid.startswith(entry)
