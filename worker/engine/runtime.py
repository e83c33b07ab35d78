"""The process that a job trains in: seeds, determinism, device, versions.

TensorFlow fixes its threads and devices when the first operation runs. So nothing here runs at import, and
`prepare` comes before anything else of a job.
"""

import os
import platform
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

CPU = "cpu"
"""The device's name where there is no GPU."""
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
"""Variables that tell TensorFlow how many threads to have."""


def prepare(seed: int) -> None:
    """Make this process deterministic from `seed`, and let GPU memory grow as needed.

    From here on the same job gives the same weights bit for bit on the same kind of machine; an operation that
    has no deterministic kernel on this device raises `tf.errors.UnimplementedError` instead of being quietly
    different. Determinism cannot be switched off again in this process.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        _grow_memory(gpu)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _grow_memory(gpu: tf.config.PhysicalDevice) -> None:
    """TensorFlow takes all of a GPU's memory at once unless told before its first operation."""
    if not tf.config.experimental.get_memory_growth(gpu):
        tf.config.experimental.set_memory_growth(gpu, True)


def device_name() -> str:
    """`CPU`, or the name of the GPU that TensorFlow trains on, such as `NVIDIA H200`."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return CPU
    details: dict[str, str] = tf.config.experimental.get_device_details(gpus[0])
    return details.get("device_name", "gpu")


def machine() -> str:
    """What else of the machine decides the last bits of a sum on a CPU: its kind, and the number of its cores."""
    return f"{_processor()}, {os.cpu_count()} cores"


def usable_cores() -> str:
    """By what TensorFlow decides how many threads share a sum: the cores that this process may use, and variables.

    It follows the affinity, as `taskset` and `docker run --cpuset-cpus` set it, and not a quota of time.
    """
    # `os.process_cpu_count` does not exist before Python 3.13, the affinity not on macOS.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = [f"{name}={os.environ[name]}" for name in _THREADS if os.environ.get(name)]
    return f"{cores} ({', '.join(told)})" if told else str(cores)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of everything that decides the numbers of a run."""
    return {
        "thaw": metadata.version("thaw"),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
