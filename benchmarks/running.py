"""What the benchmarks share: a running `thaw up` in a folder of its own, and the digits as files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from sklearn.datasets import load_digits

from thaw import Client

SOURCE_SCRIPT = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
arrays = np.load(sys.argv[1])
model = keras.Sequential([keras.Input((64,)), keras.layers.Rescaling(1 / 16)]
    + [keras.layers.Dense(units, activation="selu", kernel_initializer="lecun_normal") for units in (100, 50, 50)]
    + [keras.layers.Dense(8, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(arrays["x"], arrays["y"], epochs=20, verbose=0)
model.save(sys.argv[2])
"""


@dataclass(frozen=True)
class Service:
    """A running service and the process that holds it."""

    client: Client
    process: subprocess.Popen[bytes]
    data_dir: Path


@dataclass
class Peak:
    """The most memory that all processes of a service used at once, in bytes; pages that they share count once."""

    bytes: int = 0
    by_process: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched_memory(service: Service, *, every_seconds: float = 0.5) -> Iterator[Peak]:
    """Look at the memory of a service's processes until the block ends."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.wait(every_seconds):
            used: dict[str, int] = {}
            for process in [(root := psutil.Process(service.process.pid)), *root.children(recursive=True)]:
                try:
                    used[f"{process.pid} {' '.join(process.cmdline())[-60:]}"] = process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
            if (total := sum(used.values())) > peak.bytes:
                peak.bytes, peak.by_process = total, used

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


@contextmanager
def running(data_dir: Path) -> Iterator[Service]:
    """`thaw up` on a free port, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "thaw", "up", "--data-dir", str(data_dir), "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=(data_dir.parent / "up.log").open("wb"),
    )
    note = data_dir / "run" / "service.json"
    deadline = time.monotonic() + 120
    while not note.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the service did not start:\n" + (data_dir.parent / "up.log").read_text())
        time.sleep(0.05)
    facts = json.loads(note.read_text())
    try:
        with Client(facts["url"], Path(facts["api_key_file"]).read_text().strip()) as client:
            yield Service(client=client, process=process, data_dir=data_dir)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def write_digits(folder: Path) -> tuple[Path, Path]:
    """A source trained on the digits 0 to 7 (`.keras`), and the digits 8 and 9 (`.npz`)."""
    digits = load_digits()
    few = digits.target >= 8
    rest, wanted, source = folder / "rest.npz", folder / "digits.npz", folder / "source.keras"
    np.savez(rest, x=digits.data[~few].astype("float32"), y=digits.target[~few])
    np.savez(wanted, x=digits.data[few].astype("float32"), y=digits.target[few])
    subprocess.run(
        [sys.executable, "-c", SOURCE_SCRIPT, str(rest), str(source)],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return source, wanted


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {"cores": os.cpu_count(), "python": sys.version.split()[0], "platform": sys.platform}
