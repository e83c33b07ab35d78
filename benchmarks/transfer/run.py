"""Thaw's engine against a plain Keras script that does the same training, in one run on one machine.

    KERAS_HOME=… uv run python benchmarks/transfer/run.py --trashnet trashnet.zip [--only head_only] [--rounds 3]

MobileNet 0.25 (ImageNet) on trashnet at 160 px. Each side runs in a process of its own, in turns; medians are
compared. The clock runs over compile and fit of all phases; imports, loading and decoding are left out on both sides,
but for `twenty_jobs`, where both start from nothing each time: that is the point of it.

    head_only      20 epochs with all of the source frozen          also against the floor: one pass + head training
    three_phases   head 10 epochs, last 20 % 10, all 3
    unfrozen       4 epochs with all of the source unfrozen: nothing to cache
    twenty_jobs    20 jobs that differ in seed and head, through `thaw up`, against as many scripts; memory is that of
                   all of the service's processes together against one script's
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
PREPARE = HERE / "prepare.py"

HEAD = {"fraction": 0, "learning_rate": 1e-3}
SCENARIOS: dict[str, list[dict[str, float]]] = {
    "head_only": [{**HEAD, "epochs": 20}],
    "three_phases": [
        {**HEAD, "epochs": 10},
        {"fraction": 0.2, "learning_rate": 1e-4, "epochs": 10},
        {"fraction": 1.0, "learning_rate": 1e-5, "epochs": 3},
    ],
    "unfrozen": [{"fraction": 1.0, "learning_rate": 1e-4, "epochs": 4}],
}
TWENTY_EPOCHS = 20
HIDDEN = ([], [32], [64], [128], [64, 32])


def process(script: str, scenario: Path) -> dict[str, Any]:
    """Run one side; its figures, and the wall time of the whole process."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / script), str(scenario)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": time.perf_counter() - started}


def compare(name: str, folder: Path, facts: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One scenario, the sides in turns."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**facts, "phases": SCENARIOS[name], "hidden": [], "seed": 1}))
    scripts = ["plain.py", "engine.py", *(["floor.py"] if name == "head_only" else [])]
    runs: dict[str, list[dict[str, Any]]] = {script: [] for script in scripts}
    for _ in range(rounds):
        for script in scripts:
            runs[script].append(process(script, path))
    plain, ours = runs["plain.py"], runs["engine.py"]

    def middle(of: list[dict[str, Any]], phase: int | None = None) -> float:
        return statistics.median(sum(run["phases"]) if phase is None else run["phases"][phase] for run in of)

    found = {
        "script_seconds": middle(plain),
        "thaw_seconds": middle(ours),
        "times_faster": middle(plain) / middle(ours),
        "times_faster_by_phase": [
            middle(plain, number) / middle(ours, number) for number in range(len(SCENARIOS[name]))
        ],
        "memory_ratio": statistics.median(run["peak_mib"] for run in ours)
        / statistics.median(run["peak_mib"] for run in plain),
        "script_peak_mib": statistics.median(run["peak_mib"] for run in plain),
        "script_accuracy": statistics.median(run["accuracy"] for run in plain),
        "thaw_accuracy": statistics.median(run["accuracy"] for run in ours),
        "cache": ours[-1]["cache"],
    }
    if name == "head_only":
        found["times_the_floor"] = middle(ours) / middle(runs["floor.py"])
    return found


def twenty_jobs(folder: Path, facts: dict[str, Any], scripts: int) -> dict[str, Any]:
    """20 jobs through a running service, against scripts of which `scripts` are run and the rest counted alike."""
    from engine import spec_of
    from running import running, watched_memory

    phases = [{**HEAD, "epochs": TWENTY_EPOCHS}]
    wishes = [{**facts, "phases": phases, "hidden": HIDDEN[seed % 5], "seed": seed} for seed in range(20)]
    with running(folder / "data") as service, watched_memory(service) as peak:
        model = service.client.models.push(facts["source"], rescale="minus_one_to_one")
        data = service.client.datasets.push(facts["data"])
        started = time.perf_counter()
        bodies = [spec_of(wish).model_dump(mode="json", exclude={"preprocessing"}) for wish in wishes]
        jobs = [
            service.client.jobs.create(model=model.id, training_file=data.id, seed=wish["seed"], **body)
            for wish, body in zip(wishes, bodies, strict=True)
        ]
        done = [service.client.jobs.wait(job.id) for job in jobs]
        ours = time.perf_counter() - started
    if any(job.status != "succeeded" for job in done):
        sys.exit(f"not all jobs succeeded: {[job.error for job in done if job.error]}")
    path, plain = folder / "wish.json", []
    for wish in wishes[:scripts]:
        path.write_text(json.dumps(wish))
        plain.append(process("plain.py", path))
    script = statistics.mean(run["process_seconds"] for run in plain) * len(wishes)
    script_mib = max(run["peak_mib"] for run in plain)
    return {
        "script_seconds": script,
        "scripts_run": len(plain),
        "thaw_seconds": ours,
        "times_faster": script / ours,
        "memory_ratio": peak.bytes / 2**20 / script_mib,
        "script_peak_mib": script_mib,
        "thaw_peak_mib": peak.bytes / 2**20,
        "thaw_peak_mib_by_process": {name: size / 2**20 for name, size in peak.by_process.items()},
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """For people."""
    lines = [f"{'':14}{'script':>10}{'Thaw':>10}{'times faster':>14}{'memory':>9}"]
    for name, figures in found.items():
        memory = f"{figures['memory_ratio']:.2f}" if "memory_ratio" in figures else ""
        lines.append(
            f"{name:14}{figures['script_seconds']:9.1f}s{figures['thaw_seconds']:9.1f}s"
            f"{figures['times_faster']:14.2f}{memory:>9}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prepare once, run the scenarios, print JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trashnet", type=Path, required=True, help="the class folders of trashnet, zipped")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, "twenty_jobs"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scripts", type=int, default=20, help="of the 20 scripts, how many to run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as name:
        folder = Path(name)
        prepared = subprocess.run(
            [sys.executable, str(PREPARE), str(options.trashnet.resolve()), name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        facts = {**json.loads(prepared.splitlines()[-1]), "output": str(folder / "plain.keras"), "folder": name}
        found = {}
        for scenario in options.only or [*SCENARIOS, "twenty_jobs"]:
            if scenario == "twenty_jobs":
                found[scenario] = twenty_jobs(folder, facts, options.scripts)
            else:
                found[scenario] = compare(scenario, folder, facts, options.rounds)
            print(json.dumps({scenario: found[scenario]}), file=sys.stderr)
    print(json.dumps({"machine": machine(), "rounds": options.rounds, **found}, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
