"""Kill jobs at random moments, let them go on, and compare their weights bit for bit with undisturbed runs.

uv run python benchmarks/resume_kills.py [--kills 60] [--seed 1] [--only NAME] [--fresh] [--folder F] [--output F]

Each job runs once undisturbed; then again and again as `python -m worker.engine job.json`, killed (SIGKILL) after a
random time, until it was killed its share of times, and to its end. To save the time that TensorFlow takes to import,
the processes are forked from one that has imported it and run nothing, as Thaw's workers do; `--fresh` starts each
anew. The moments are drawn from `--seed`: counted from the beginning of the training one time in five, and otherwise
from the first epoch that an attempt ends, so that most attempts have kept something before they are killed. What was
killed in the middle of writing leaves what it leaves. Prints a line for each job, then a JSON summary; exit status 1
if any weight differs.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

STARTED = "training"
"""What the engine prints when it begins to train."""
EPOCH = "  epoch "
"""How a line begins that it prints after an epoch."""
EARLY = 0.2
"""How often an attempt is killed at a moment that is counted from its start, and may have trained nothing yet."""

SGD = {"type": "sgd", "learning_rate": 0.05}
MOMENTUM = {"type": "sgd", "learning_rate": 0.02, "momentum": 0.9}
ADAM = {"type": "adam", "learning_rate": 0.003}
DROPOUT = {"layers": [{"type": "global_average_pooling"}, {"type": "dropout", "rate": 0.4}]}
STOPPING = {"patience": 3, "restore_best": True}

KINDS: dict[str, dict[str, Any]] = {
    "cache on": {"cache": "require", "schedule": [{"epochs": 400, "optimizer": ADAM}]},
    "cache on, in files": {"cache": "require", "schedule": [{"epochs": 60, "optimizer": ADAM}]},
    "cache off": {"cache": "off", "schedule": [{"epochs": 40, "optimizer": MOMENTUM}]},
    "two phases, cache on, then all": {
        "cache": "auto",
        "schedule": [{"epochs": 60, "optimizer": SGD}, {"epochs": 20, "unfreeze": "all", "optimizer": MOMENTUM}],
    },
    "dropout": {"head": DROPOUT, "schedule": [{"epochs": 25, "unfreeze": {"last": 2}, "optimizer": ADAM}]},
    "augmentation": {
        "augmentation": [{"type": "flip"}, {"type": "rotation", "degrees": 10}],
        "schedule": [{"epochs": 20, "unfreeze": {"last": 1}, "optimizer": ADAM}],
    },
    "early stopping": {
        "schedule": [
            {"epochs": 400, "unfreeze": "all", "optimizer": ADAM, "early_stopping": STOPPING},
            {"epochs": 15, "optimizer": SGD},
        ],
    },
    "layer decay, rates that move": {
        "schedule": [
            {
                "epochs": 25,
                "unfreeze": "all",
                "optimizer": ADAM,
                "layer_decay": 0.6,
                "learning_rate_schedule": {"type": "one_cycle"},
            }
        ],
    },
    "carried optimizer from the best epoch": {
        "schedule": [
            {"epochs": 12, "unfreeze": {"last": 1}, "optimizer": ADAM},
            {"epochs": 12, "unfreeze": "all", "optimizer": ADAM, "optimizer_state": "carry", "start_from": "best"},
        ],
    },
    "random weights, batch norm, accumulated gradients": {
        "backbone_weights": "random",
        "head": {"layers": [{"type": "global_average_pooling"}, {"type": "batch_normalization"}]},
        "schedule": [{"epochs": 20, "unfreeze": "all", "gradient_accumulation": 2, "optimizer": ADAM}],
    },
}

IN_FILES = "cache on, in files"
"""This kind's features are held in files whatever their size; only forked processes can be told so."""

MAKE = """
import sys, keras, numpy as np
keras.utils.set_random_seed(3)
layers = keras.layers
model = keras.Sequential([layers.Input((12, 12, 1)), layers.Conv2D(8, 3, activation="relu", name="low"),
    layers.BatchNormalization(name="norm"), layers.Conv2D(12, 3, activation="relu", name="high"),
    layers.GlobalAveragePooling2D(name="pool"), layers.Dense(10, activation="softmax", name="old")])
model.save(sys.argv[1] + "/source.keras")
rng = np.random.default_rng(5)
y = np.arange(600) % 3
x = rng.integers(0, 120, (600, 12, 12, 1)) + 45 * y[:, None, None, None] * (np.arange(12) % 3 == 0)[None, :, None, None]
np.savez(sys.argv[1] + "/data.npz", x=x.astype("uint8"), y=y)
"""


@dataclass
class Outcome:
    """What became of one kind of job."""

    name: str
    kills: int = 0
    resumed: int = 0
    """Runs that went on from a checkpoint; the others were killed before there was one."""
    refused: int = 0
    """Checkpoints that did not verify."""
    identical: bool = False
    seconds: list[float] = field(default_factory=list)
    """After how long each run was killed."""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="Kill jobs at random, and compare their weights.")
    parser.add_argument("--kills", type=int, default=60, help="how often to kill, over all kinds of jobs")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments")
    parser.add_argument("--only", help="only the kinds of jobs with this in their name")
    parser.add_argument("--fresh", action="store_true", help="start every process anew, TensorFlow and all")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--output", type=Path, help="write the summary here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, capture_output=True)
        outcomes = run_all(folder, options)
    summary = {
        "seed": options.seed,
        "kills": sum(each.kills for each in outcomes),
        "went_on_from_a_checkpoint": sum(each.resumed for each in outcomes),
        "identical": all(each.identical for each in outcomes),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "jobs": [asdict(each) for each in outcomes],
    }
    text = json.dumps(summary, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0 if summary["identical"] else 1


def run_all(folder: Path, options: argparse.Namespace) -> list[Outcome]:
    """Every kind of job with its share of the kills."""
    kinds = [name for name in KINDS if not (options.fresh and name == IN_FILES)]
    chosen = [name for name in kinds if not options.only or options.only in name]
    outcomes = []
    for number, name in enumerate(chosen):
        share = options.kills // len(chosen) + (number < options.kills % len(chosen))
        outcomes.append(torture(folder / f"{number:02d}", name, options, kills=share))
        done = outcomes[-1]
        verdict = "identical" if done.identical else "DIFFERENT"
        print(f"{name}: killed {done.kills} times, went on {done.resumed} times, weights {verdict}", flush=True)
    return outcomes


def torture(folder: Path, name: str, options: argparse.Namespace, *, kills: int) -> Outcome:
    """One job undisturbed, and once more with so many kills."""
    folder.mkdir(exist_ok=True)
    outcome, draw = Outcome(name), random.Random(f"{options.seed} {name}")  # noqa: S311 (replayable, not secret)
    start = started if options.fresh else forked_with_files if name == IN_FILES else forked
    whole = Run(folder, name, "undisturbed", start, model="../source.keras", training_file="../data.npz")
    begun, ended = whole.to_the_end()
    # Spread over the training that is left: what an attempt does not reach, the next one may.
    longest = max(0.3, (ended - begun) / max(1, kills))
    # What the first run has checked needs no second look, which would take longer than the training.
    tortured = Run(folder, name, "tortured", start, model="undisturbed/source", training_file="undisturbed/dataset")
    while outcome.kills < kills:
        seconds, since = draw.uniform(0, longest), STARTED if draw.random() < EARLY else EPOCH
        if not tortured.killed_after(seconds, since=since):
            break
        outcome.kills += 1
        outcome.seconds.append(round(seconds, 3))
    if not tortured.done:
        tortured.to_the_end()
    outcome.resumed, outcome.refused = tortured.said("going on from step"), tortured.said("is left out")
    outcome.identical = whole.digest() == tortured.digest()
    return outcome


class Run:
    """One job file, run as often as it takes."""

    def __init__(self, folder: Path, name: str, output: str, start: "Start", **files: str) -> None:
        self._start_process = start
        job = {**files, "output": output, "batch_size": 16, "seed": 7, **KINDS[name]}
        self.job = folder / f"{output}.json"
        self.job.write_text(json.dumps(job), encoding="utf-8")
        self.output = folder / output
        self.log = folder / f"{output}.log"
        self.log.touch()
        self.done = False

    def to_the_end(self) -> tuple[float, float]:
        """Let it finish; when it began to train, and when it was done, in seconds since its start."""
        started = time.monotonic()
        process = self._start()
        self._wait_for(STARTED, process)
        begun = time.monotonic() - started
        process.join()
        if process.exitcode != 0:
            sys.exit(f"{self.job} failed; see {self.log}:\n{self.log.read_text(encoding='utf-8')[-2000:]}")
        self.done = True
        return begun, time.monotonic() - started

    def killed_after(self, seconds: float, *, since: str) -> bool:
        """Kill it so long after it printed a line that begins so; `False`: it was done before."""
        process = self._start()
        self._wait_for(since, process)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            return True
        if process.exitcode != 0:
            sys.exit(f"{self.job} failed; see {self.log}:\n{self.log.read_text(encoding='utf-8')[-2000:]}")
        self.done = True
        return False

    def said(self, words: str) -> int:
        """How many lines of all its runs have these words."""
        return sum(words in line for line in self.log.read_text(encoding="utf-8").splitlines())

    def digest(self) -> str:
        """Of the weights that it ended with."""
        manifest = json.loads((self.output / "results" / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest["lineage"]["result"])

    def _start(self) -> BaseProcess:
        self._seen = self.log.stat().st_size
        process = self._start_process(self.job, self.log)
        process.start()
        return process

    def _wait_for(self, beginning: str, process: BaseProcess) -> None:
        """Until it prints a line that begins so, or ends."""
        while process.exitcode is None:
            with self.log.open("rb") as log:
                log.seek(self._seen)
                if any(line.startswith(beginning.encode()) for line in log.read().splitlines()):
                    return
            time.sleep(0.005)


# === Processes ===


def forked(job: Path, log: Path) -> BaseProcess:
    """A process with TensorFlow imported already, not started yet."""
    importlib.import_module("worker.engine.preload")
    return multiprocessing.get_context("fork").Process(target=_run, args=(job, log, None))


def forked_with_files(job: Path, log: Path) -> BaseProcess:
    """The same, with no features held in memory."""
    importlib.import_module("worker.engine.preload")
    return multiprocessing.get_context("fork").Process(target=_run, args=(job, log, None), kwargs={"memory_bytes": 0})


def started(job: Path, log: Path) -> BaseProcess:
    """A process that becomes `python -m worker.engine`, not started yet."""
    command = [sys.executable, "-m", "worker.engine", str(job)]
    return multiprocessing.get_context("fork").Process(target=_run, args=(job, log, command))


def _run(job: Path, log: Path, command: list[str] | None, *, memory_bytes: int | None = None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if command:
        os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
    from worker.engine import caching
    from worker.engine.__main__ import main as engine

    if memory_bytes is not None:
        caching.MEMORY_BYTES = memory_bytes
    code = engine([str(job)])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


Start = Callable[[Path, Path], BaseProcess]

if __name__ == "__main__":
    sys.exit(main())
