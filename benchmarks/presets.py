"""Every preset on real photos, through the API: does each do what it says, and what does its report say?

    KERAS_HOME=… uv run python benchmarks/presets.py trashnet.zip [--epochs 4]

MobileNet 0.25 by its catalogue name, at 160 px. Prints a line for each preset, and JSON at the end.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

from running import machine, running

from app.domain.presets import PresetName
from thaw.records import Job

SOURCE = "keras:MobileNet?alpha=0.25&input_size=any&include_top=false"
SIZE = (160, 160)
BLOCKS = 2
"""Of `gradual`: a phase for each after the head's."""


def told(job: Job) -> dict[str, Any]:
    """What a job's report says, in short."""
    report = job.report
    assert report is not None
    assert report.test.accuracy is not None
    assert report.source is not None
    return {
        "status": job.status,
        "phases": [
            {
                "name": phase.name,
                "epochs": phase.epochs_run,
                "trained": phase.trainable_parameters,
                "frozen": phase.frozen_parameters,
                "proof_held": bool(phase.proof and phase.proof.held),
                "cached": bool(phase.cache and phase.cache.used),
            }
            for phase in report.phases
        ],
        "accuracy": [report.test.accuracy.value, report.test.accuracy.low, report.test.accuracy.high],
        "test_examples": report.test.examples,
        "source_unchanged": report.source.unchanged,
    }


def main() -> None:
    """Submit all, wait, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trashnet", type=Path, help="the class folders of trashnet, zipped")
    parser.add_argument("--epochs", type=int, default=4, help="of each phase")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-") as name, running(Path(name) / "data") as service:
        client = service.client
        data = client.datasets.push(options.trashnet)
        jobs = {}
        for preset in get_args(PresetName):
            more = {"blocks": BLOCKS} if preset == "gradual" else {}
            schedule = {"preset": preset, "epochs": options.epochs, "learning_rate": 0.001, "optimizer": "adam", **more}
            jobs[preset] = client.jobs.create(
                model=SOURCE,
                training_file=data.id,
                cut={"layer": "conv_pw_13_relu"},
                head={"layers": [{"type": "global_average_pooling"}, {"type": "dropout", "rate": 0.2}]},
                schedule=schedule,
                preprocessing={"image_size": SIZE},
                seed=1,
            )
        found = {}
        for preset, job in jobs.items():
            done = client.jobs.wait(job.id)
            if done.status != "succeeded":
                sys.exit(f"{preset}: {done.status}, {done.error}")
            found[preset] = told(done)
            value, low, high = found[preset]["accuracy"]
            phases = ", ".join(
                f"{phase['name']} {phase['epochs']} epochs{' (cached)' if phase['cached'] else ''}"
                for phase in found[preset]["phases"]
            )
            print(f"{preset:13} {value:.3f} ({low:.3f} to {high:.3f})  {phases}")
    print(json.dumps({"machine": machine(), "source": SOURCE, **found}, indent=1))


if __name__ == "__main__":
    main()
