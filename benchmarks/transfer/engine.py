"""The same job by Thaw's engine, in a process of its own; its phases include the cache, the proofs, the checkpoints.

python engine.py SCENARIO.json
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from app.domain.spec import Spec, resolve
from worker.engine.reporter import SilentReporter
from worker.engine.train import train


def spec_of(scenario: dict[str, Any]) -> Spec:
    """What `plain.py` does, as a job."""
    hidden = [{"type": "dense", "units": units} for units in scenario["hidden"]]
    return Spec.model_validate(
        {
            "cut": {"layer": "conv_pw_13_relu"},
            "head": {"layers": [{"type": "global_average_pooling"}, *hidden, {"type": "dropout", "rate": 0.2}]},
            "schedule": [
                {
                    "unfreeze": {"fraction": phase["fraction"]} if phase["fraction"] else "none",
                    "epochs": phase["epochs"],
                    "optimizer": {"type": "adam", "learning_rate": phase["learning_rate"]},
                }
                for phase in scenario["phases"]
            ],
            "cache": scenario.get("cache", "auto"),
        }
    )


def main() -> None:
    """Train, and say how long each phase took."""
    scenario = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory(prefix="thaw-", dir=scenario["folder"]) as name:
        started = time.perf_counter()
        source, data = Path(scenario["canonical_source"]), Path(scenario["canonical_data"])
        trained = train(resolve(spec_of(scenario), seed=scenario["seed"]), source, data, Path(name), SilentReporter())
        total = time.perf_counter() - started
    report = trained.report
    assert report.test.accuracy is not None
    print(
        json.dumps(
            {
                "phases": [phase.seconds for phase in report.phases],
                "accuracy": report.test.accuracy.value,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "total": total,
                "stages": report.seconds,
                "cache": [phase.cache.model_dump() if phase.cache else None for phase in report.phases],
            }
        )
    )


if __name__ == "__main__":
    main()
