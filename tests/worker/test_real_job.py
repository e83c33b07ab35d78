"""A real job on a real worker: TensorFlow preloaded, a Keras model and an npz file in, a model that works out."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain.job import Job, JobRequest
from app.domain.phases import Phase
from app.queue import CeleryDoorbell
from app.services import context, files, jobs, models
from app.services.context import DEFAULT_PROJECT, Services
from app.settings import Settings
from app.storage.database import upgrade

pytestmark = [pytest.mark.service, pytest.mark.tensorflow]

MAKE_SOURCE = """
import sys, keras, numpy as np
model = keras.Sequential([keras.layers.Input((16,)), keras.layers.Dense(32, activation="relu", name="hidden"),
                          keras.layers.Dense(3, activation="softmax", name="old")])
model.save(sys.argv[1] + "/source.keras")
rng = np.random.default_rng(1)
y = np.arange(400) % 2
x = (rng.normal(size=(400, 16)) + 3 * y[:, None]).astype("float32")
np.savez(sys.argv[1] + "/data.npz", x=x, y=y)
"""

TRY_RESULT = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
data = np.load(sys.argv[2])
print(np.mean((model.predict(data["x"], verbose=0)[:, 0] > 0.5) == data["y"]))
"""


@dataclasses.dataclass
class Site:
    """A running worker and the services around it."""

    services: Services
    worker: subprocess.Popen[bytes]
    log: Path

    def upload(self, path: Path) -> str:
        with self.services.store.writer(max_bytes=10**9) as writer:
            writer.write(path.read_bytes())
            blob = writer.commit()
        made = files.create(self.services, DEFAULT_PROJECT, filename=path.name, purpose="fine-tune", blob=blob)
        return made.id

    def run(self, request: JobRequest) -> Job:
        """Submit a job and wait for its end."""
        job = jobs.submit(self.services, DEFAULT_PROJECT, request)
        deadline = time.monotonic() + 120
        while job.status not in {"succeeded", "failed"}:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
            job = jobs.get(self.services, DEFAULT_PROJECT, job.id)
        return job

    def said(self, event: str) -> list[dict[str, Any]]:
        """Lines of the log with this sentence."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def site(valkey: Any, tmp_path: Path) -> Iterator[Site]:
    settings = Settings(data_dir=tmp_path / "data", redis_url=valkey.url, min_free_disk_bytes=0)
    services = context.build(settings)
    services = dataclasses.replace(services, doorbell=CeleryDoorbell(settings))
    upgrade(services.db)
    environment = {**os.environ, "THAW_DATA_DIR": str(settings.data_dir), "THAW_REDIS_URL": valkey.url}
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "worker", "--queues", "cpu,prepare"]
        worker = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    yield Site(services, worker, log)
    worker.terminate()
    assert worker.wait(8) == 0
    services.db.close()


def test_a_real_job_goes_from_two_files_to_a_model_that_works(site: Site, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE_SOURCE, str(tmp_path)], check=True, capture_output=True)
    request = JobRequest(
        model=site.upload(tmp_path / "source.keras"),
        training_file=site.upload(tmp_path / "data.npz"),
        schedule=[
            Phase(name="head", epochs=2),
            Phase(name="all", unfreeze="all", epochs=10, optimizer={"type": "adam", "learning_rate": 0.01}),
        ],
        seed=1,
    )
    first = site.run(request)
    assert first.status == "succeeded", (first.error, site.log.read_text())
    second = site.run(request.model_copy(update={"model": first.model_id, "training_file": first.dataset_id}))
    assert second.status == "succeeded", second.error

    assert first.report is not None
    assert second.report is not None
    assert first.report.test == second.report.test, "the same job gives the same result"
    names = {artifact.name for artifact in first.artifacts}
    assert names == {
        "model.keras", "labels.json", "metrics.csv", "history.json", "events.out.tfevents.thaw", "report.json",
        "MODEL_CARD.md", "manifest.json",
    }  # fmt: skip
    result = models.get(site.services, DEFAULT_PROJECT, str(first.result_model_id))
    site.services.store.fetch(result.download[0].sha256, tmp_path / "result.keras")
    command = [sys.executable, "-c", TRY_RESULT, str(tmp_path / "result.keras"), str(tmp_path / "data.npz")]
    tried = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(tried.stdout.split()[-1]) > 0.9

    ended = [line for line in site.said("attempt ended") if line["task"] == "train"]
    assert [line["ending"] for line in ended] == ["succeeded", "succeeded"]
    for line in ended:
        assert 0 < line["inputs_seconds"] < line["ready_seconds"] < line["first_step_seconds"] < line["ended_seconds"]
    supervisor = psutil.Process(site.worker.pid)
    maps = Path(f"/proc/{site.worker.pid}/maps").read_text()
    assert "tensorflow" not in maps, "the Celery process is free of it"
    assert supervisor.memory_info().rss < 250 * 1024**2


MAKE_TWO_INPUTS = """
import sys, keras, numpy as np
left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
shared = keras.layers.Dense(16, activation="relu", name="shared")
apart = keras.layers.Subtract(name="apart")([shared(left), shared(right)])
hidden = keras.layers.Dense(16, activation="relu", name="hidden")(apart)
keras.Model([left, right], keras.layers.Dense(3, name="old")(hidden)).save(sys.argv[1] + "/twins.keras")
rng = np.random.default_rng(1)
y = np.arange(400) % 2
x = rng.normal(size=(400, 4)).astype("float32")
other = np.where(y[:, None] == 1, x + 2, x).astype("float32")
np.savez(sys.argv[1] + "/pairs.npz", x__left=x, x__right=other, y=y)
"""

TRY_TWO_INPUTS = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
data = np.load(sys.argv[2])
raw = {"left": data["x__left"], "right": data["x__right"]}
print(np.mean((model.predict(raw, verbose=0)[:, 0] > 0.5) == data["y"]))
"""


def test_a_real_job_trains_a_model_with_two_inputs(site: Site, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE_TWO_INPUTS, str(tmp_path)], check=True, capture_output=True)
    job = site.run(
        JobRequest(
            model=site.upload(tmp_path / "twins.keras"),
            training_file=site.upload(tmp_path / "pairs.npz"),
            schedule=[Phase(unfreeze="all", epochs=10, optimizer={"type": "adam", "learning_rate": 0.01})],
            seed=1,
        )
    )
    assert job.status == "succeeded", (job.error, site.log.read_text())
    result = models.get(site.services, DEFAULT_PROJECT, str(job.result_model_id))
    assert result.info is not None
    assert [each.name for each in result.info.inputs] == ["left", "right"]
    site.services.store.fetch(result.download[0].sha256, tmp_path / "result.keras")
    command = [sys.executable, "-c", TRY_TWO_INPUTS, str(tmp_path / "result.keras"), str(tmp_path / "pairs.npz")]
    tried = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(tried.stdout.split()[-1]) > 0.9
