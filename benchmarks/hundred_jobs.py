"""100 digits jobs at once: do all succeed, each once, and does memory stay flat?

uv run python benchmarks/hundred_jobs.py [--jobs 100]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil
from running import Service, machine, running, write_digits


def memory(service: Service) -> dict[str, int]:
    """Resident bytes of the API process and of the Celery processes, by command line."""
    found: dict[str, int] = {}
    for process in psutil.Process(service.process.pid).children(recursive=True):
        try:
            line, size = process.cmdline(), process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        if "app.main" in line:
            found["api"] = size
        elif "worker" in line and "--queues" in line:
            found["supervisor of " + line[line.index("--queues") + 1]] = size
    return found


def main() -> None:
    """Submit, wait, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="thaw-") as folder, running(Path(folder) / "data") as service:
        client = service.client
        source, digits = write_digits(Path(folder))
        model, data = client.models.push(source), client.datasets.push(digits)
        warm = client.jobs.wait(client.jobs.create(model=model.id, training_file=data.id, seed=0).id)
        before, started = memory(service), time.monotonic()
        ids = [client.jobs.create(model=model.id, training_file=data.id, seed=seed).id for seed in range(count)]
        submitted = time.monotonic() - started
        halfway: dict[str, int] = {}
        for position, identifier in enumerate(ids):
            client.jobs.wait(identifier)
            if position == count // 2:
                halfway = memory(service)
        elapsed, after = time.monotonic() - started, memory(service)
        jobs = [client.jobs.get(identifier) for identifier in ids]
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "warm_up": warm.status,
                    "jobs": count,
                    "statuses": {
                        status: sum(job.status == status for job in jobs) for status in {j.status for j in jobs}
                    },
                    "attempts_over_one": sum(job.attempt.number != 1 for job in jobs),
                    "results": len({job.fine_tuned_model for job in jobs}),
                    "seconds_to_submit": round(submitted, 2),
                    "seconds": round(elapsed, 1),
                    "mib_before": {name: size >> 20 for name, size in before.items()},
                    "mib_halfway": {name: size >> 20 for name, size in halfway.items()},
                    "mib_after": {name: size >> 20 for name, size in after.items()},
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
