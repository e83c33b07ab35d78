"""From POST to the first training step and to `succeeded`, beside a plain Keras script that does the same training.

uv run python benchmarks/latency.py [--rounds 5]

Thaw: a running `thaw up`; the clock starts before the POST. The script (`plain_digits.py`): the clock starts before
its process. The two take turns, and the medians are compared. Both load the same source, train 4 + 16 epochs on the
same digits, evaluate and save a model.
"""

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from running import Service, machine, running, write_digits

PLAIN = Path(__file__).with_name("plain_digits.py")


def thaw_once(service: Service, model: str, data: str, seed: int) -> dict[str, float]:
    """Seconds from before the POST to the first training step, and to `succeeded`."""
    posted = time.time()
    job = service.client.jobs.create(model=model, training_file=data, seed=seed)
    done = service.client.jobs.wait(job.id)
    if done.status != "succeeded":
        sys.exit(f"the job ended {done.status}: {done.error}")
    # All clocks are this machine's: SQLite's, Python's, and the worker's count of seconds since its claim.
    claimed_at, finished_at = moments(service, job.id)
    to_first_step = attempt_log(service, job.id)["first_step_seconds"]
    return {
        "first_step": claimed_at - posted + to_first_step,
        "claim_to_first_step": to_first_step,
        "done": finished_at - posted,
    }


def moments(service: Service, job: str) -> tuple[float, float]:
    """When the job was claimed and when it ended, from the database: on the wire, times are whole seconds."""
    with contextlib.closing(sqlite3.connect(service.data_dir / "thaw.db")) as database:
        claimed_at, finished_at = database.execute(
            "SELECT started_at, finished_at FROM jobs WHERE id = ?", (job,)
        ).fetchone()
    return float(claimed_at), float(finished_at)


def attempt_log(service: Service, job: str) -> dict[str, float]:
    """What the worker logged at the end of the job's attempt; the line comes just after the status."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in (service.data_dir / "logs" / "worker.log").read_text().splitlines():
            if job in line and '"attempt ended"' in line:
                return dict(json.loads(line))
        time.sleep(0.05)
    sys.exit("the worker's log does not tell of the attempt")


def script_once(source: Path, digits: Path, out: Path) -> dict[str, float]:
    """Seconds from before the process to its first training step, and to its end."""
    started = time.monotonic()
    output = subprocess.run(
        [sys.executable, str(PLAIN), str(source), str(digits), str(out)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout
    moments = json.loads(output.splitlines()[-1])
    return {"first_step": moments["first_step"] - started, "done": moments["done"] - started}


def main() -> None:
    """Take turns, compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="thaw-") as name, running(Path(name) / "data") as service:
        folder = Path(name)
        source, digits = write_digits(folder)
        model, data = service.client.models.push(source), service.client.datasets.push(digits)
        thaw_runs, script_runs = [], []
        for seed in range(rounds):
            thaw_runs.append(thaw_once(service, model.id, data.id, seed))
            script_runs.append(script_once(source, digits, folder / "plain.keras"))
        thaw = {key: statistics.median(run[key] for run in thaw_runs) for key in thaw_runs[0]}
        script = {key: statistics.median(run[key] for run in script_runs) for key in script_runs[0]}
    result = {
        "machine": machine(),
        "rounds": rounds,
        "thaw_seconds": {key: round(value, 3) for key, value in thaw.items()},
        "script_seconds": {key: round(value, 3) for key, value in script.items()},
        "ratio": {key: round(thaw[key] / script[key], 3) for key in script},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
