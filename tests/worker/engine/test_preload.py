"""What a forkserver may have done before it forks: import, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow

REPOSITORY = Path(__file__).parents[3]

PROGRAM = """
import gc, os
import worker.engine.preload
from tensorflow.python.eager import context
threads = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ["one"]
print(len(threads), context.context()._initialized, gc.get_freeze_count() > len(gc.get_objects()))
"""


def test_preloading_starts_no_thread_runs_nothing_and_spares_children_the_garbage_collection() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "1 False True\n", done.stderr
