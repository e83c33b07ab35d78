"""`python -m worker.engine job.json`, as a person runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[3]

PLAIN_LOAD = """
import sys
import keras, numpy
model = keras.saving.load_model(sys.argv[1])
assert not any(name.partition(".")[0] in ("app", "worker", "thaw") for name in sys.modules)
numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[3])["x"], verbose=0))
"""


def run(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.tensorflow
def test_a_job_from_raw_files_ends_in_a_model_that_opens_where_nothing_of_thaw_is(
    tmp_path: Path, build_mlp: Callable[..., Any], blobs: Callable[..., Any]
) -> None:
    build_mlp().save(tmp_path / "source.keras")
    x, y = blobs(classes=2, examples=120)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    optimizer = {"type": "sgd", "learning_rate": 0.1}
    job = {
        "model": "source.keras",
        "training_file": "data.npz",
        "output": "out",
        "schedule": [{"name": "head", "epochs": 20, "optimizer": optimizer}],
        "seed": 5,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = run("-m", "worker.engine", "job.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("seed 5", "epoch 20/20", "freeze proof held: 4 frozen variables bit-identical", "test accuracy "):
        assert part in done.stdout
    (tmp_path / "elsewhere").mkdir()
    results = tmp_path / "out" / "results"
    plain = run(
        "-c",
        PLAIN_LOAD,
        results / "model.keras",
        tmp_path / "predictions.npy",
        tmp_path / "data.npz",
        folder=tmp_path / "elsewhere",
        PYTHONPATH="",
    )
    assert plain.returncode == 0, plain.stderr
    predicted = np.load(tmp_path / "predictions.npy")[:, 0] > 0.5
    assert np.mean(predicted == y) > 0.8


@pytest.mark.tensorflow
def test_a_job_may_start_from_a_name_of_the_catalogue(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, (40, 32, 32, 3), np.uint8), y=np.arange(40) % 2)
    job = {
        "model": "keras:MobileNet?alpha=0.25&input_size=32&include_top=false&weights=random",
        "training_file": "data.npz",
        "output": "out",
        "schedule": [{"name": "head", "epochs": 1}],
        "seed": 5,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = run("-m", "worker.engine", "job.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_name_of_the_catalogue_ends_with_the_nearest_at_once(tmp_path: Path) -> None:
    job = {"model": "keras:MobileNett", "training_file": "data.npz", "output": "out"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = run("-m", "worker.engine", "job.json", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Unknown application 'MobileNett'. Nearest: 'MobileNet'")
    assert not (tmp_path / "out").exists()


def test_a_wrong_job_names_every_wrong_field_and_ends_with_1(tmp_path: Path) -> None:
    job = {"model": "m.keras", "output": "o", "schedule": [{"epochs": 0}], "speed": 3}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = run("-m", "worker.engine", "job.json", folder=tmp_path)
    assert done.returncode == 1
    for place in ("training_file: Field required", "schedule.0.epochs: ", "speed: Extra inputs"):
        assert place in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_is_not_there_ends_with_1(tmp_path: Path) -> None:
    done = run("-m", "worker.engine", "nowhere.json", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "[Errno 2] No such file or directory: 'nowhere.json'\n"


@pytest.mark.tensorflow
def test_a_file_that_is_no_model_ends_with_its_reason_and_nothing_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from worker.engine import __main__ as program

    # This process has used TensorFlow, so it cannot be forked.
    monkeypatch.setattr(program, "_in_own_process", lambda work, *paths, **options: work(*paths, **options))
    (tmp_path / "m.keras").write_text("no model")
    (tmp_path / "job.json").write_text(json.dumps({"model": "m.keras", "training_file": "d.zip", "output": "o"}))
    assert program.main([str(tmp_path / "job.json"), "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("This is no model that Thaw knows")
    assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "o" / "source").exists()


CRASH = """
import os
from worker.engine.__main__ import _in_own_process
try:
    _in_own_process(os._exit, 9)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_crashes_its_reader_is_refused_and_the_program_lives_on(tmp_path: Path) -> None:
    done = run("-c", CRASH, folder=tmp_path)
    assert done.stdout.startswith("SourceError Reading 9 crashed the process that did it."), done.stderr
