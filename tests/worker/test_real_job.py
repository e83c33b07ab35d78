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

import numpy as np
import psutil
import pytest
from sqlalchemy import text

from app.domain.again import ForkRequest
from app.domain.dataset import DatasetOptions
from app.domain.job import ForkedFrom, Job, JobRequest
from app.domain.phases import Phase
from app.domain.spec import DropLast
from app.queue import CeleryDoorbell
from app.services import again, context, datasets, files, history, jobs, models
from app.services.context import DEFAULT_PROJECT, Services
from app.settings import Settings
from app.storage.database import upgrade
from app.storage.paging import PageQuery

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
        return self.wait(jobs.submit(self.services, DEFAULT_PROJECT, request))

    def wait(self, job: Job) -> Job:
        """Wait for a job's end."""
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
    settings = Settings(
        data_dir=tmp_path / "data",
        redis_url=valkey.url,
        min_free_disk_bytes=0,
        lease_seconds=9,
        heartbeat_seconds=0.3,
        fence_seconds=8,
        sweep_seconds=1,
    )
    services = context.build(settings)
    services = dataclasses.replace(services, doorbell=CeleryDoorbell(settings))
    upgrade(services.db)
    site = Site(services, _worker(settings, tmp_path / "worker.log"), tmp_path / "worker.log")
    yield site
    site.worker.terminate()
    assert site.worker.wait(30) == 0
    services.db.close()


def _worker(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "THAW_DATA_DIR": str(settings.data_dir),
        "THAW_REDIS_URL": settings.redis_url.get_secret_value() if settings.redis_url else "",
        "THAW_LEASE_SECONDS": str(settings.lease_seconds),
        "THAW_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
        "THAW_FENCE_SECONDS": str(settings.fence_seconds),
        "THAW_SWEEP_SECONDS": str(settings.sweep_seconds),
    }
    with log.open("ab") as output:
        command = [sys.executable, "-m", "worker", "--queues", "cpu,prepare"]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


@pytest.fixture
def keras_home(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started from now on find ImageNet's weights where Keras keeps them."""
    monkeypatch.setenv("KERAS_HOME", str(shared_data / "keras"))


@pytest.mark.usefixtures("keras_home")
def test_a_job_starts_from_a_name_of_the_catalogue_and_the_next_from_its_result(site: Site, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(60) % 2
    x = (rng.integers(0, 100, (60, 32, 32, 3)) + 100 * y[:, None, None, None]).astype("uint8")
    np.savez(tmp_path / "pictures.npz", x=x, y=y)
    request = JobRequest(
        model="keras:MobileNet?alpha=0.25&include_top=false&input_size=32",
        training_file=site.upload(tmp_path / "pictures.npz"),
        schedule=[Phase(name="head", epochs=1)],
        seed=3,
    )
    first = site.run(request)
    assert first.status == "succeeded", (first.error, site.log.read_text())
    source = models.get(site.services, DEFAULT_PROJECT, first.model_id)
    assert source.info is not None
    assert (source.info.format, source.info.rescale) == ("catalogue", "minus_one_to_one")
    second = site.run(request.model_copy(update={"model": first.id}))
    assert second.status == "succeeded", (second.error, site.log.read_text())
    assert second.model_id == first.result_model_id


MAKE_PRESET = """
import sys
import keras_hub
from kagglehub.cache import Cache
from kagglehub.handle import parse_model_handle
backbone = keras_hub.models.MobileNetBackbone(
    stackwise_expansion=[[8]], stackwise_num_blocks=[1], stackwise_num_filters=[[8]], stackwise_kernel_size=[[3]],
    stackwise_num_strides=[[2]], stackwise_se_ratio=[[0.25]], stackwise_activation=[["relu"]], stackwise_padding=[[1]],
    output_num_filters=16, depthwise_filters=8, depthwise_stride=2, depthwise_residual=False, last_layer_filter=16,
)
handle = backbone.presets["mobilenet_v3_small_050_imagenet"]["kaggle_handle"].removeprefix("kaggle://")
backbone.save_to_preset(f"{sys.argv[1]}/models/{handle}")
keras_hub.layers.ImageConverter(scale=1 / 255).save_to_preset(f"{sys.argv[1]}/models/{handle}")
for name in ("config.json", "image_converter.json", "model.weights.h5"):
    Cache().mark_as_complete(parse_model_handle(handle), name)
"""
"""A preset where Kaggle's client keeps it after a download, with random weights."""


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset that workers which are started from now on need not download."""
    pytest.importorskip("kagglehub", reason="the extra 'hub' is not installed")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    subprocess.run([sys.executable, "-c", MAKE_PRESET, str(tmp_path / "kaggle")], check=True, capture_output=True)
    return "keras_hub:mobilenet_v3_small_050_imagenet"


def test_a_job_starts_from_a_preset_of_keras_hub(preset: str, site: Site, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(60) % 2
    x = (rng.integers(0, 100, (60, 32, 32, 3)) + 100 * y[:, None, None, None]).astype("uint8")
    np.savez(tmp_path / "pictures.npz", x=x, y=y)
    request = JobRequest(
        model=preset,
        training_file=site.upload(tmp_path / "pictures.npz"),
        cut=DropLast(drop_last=0),
        schedule=[Phase(name="head", epochs=1), Phase(name="all", epochs=1, unfreeze="all")],
        seed=3,
    )
    job = site.run(request)
    assert job.status == "succeeded", (job.error, site.log.read_text())
    source = models.get(site.services, DEFAULT_PROJECT, job.model_id)
    assert source.info is not None
    assert (source.info.format, source.info.rescale) == ("preset", "zero_to_one")
    assert (source.info.origin or "").startswith(f"{preset}@")
    assert {row.class_name for row in source.info.layers} >= {"Conv2D", "BatchNormalization", "Mean"}


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

    kept = history.checkpoints(site.services, DEFAULT_PROJECT, first.id, PageQuery(order="asc")).items
    third = site.run(request.model_copy(update={"model": kept[0].id, "training_file": first.dataset_id}))
    assert third.status == "succeeded", (third.error, site.log.read_text())
    restored = models.get(site.services, DEFAULT_PROJECT, third.model_id)
    assert (restored.reference, restored.job_id) == (kept[0].id, first.id)
    fork = site.wait(again.fork(site.services, DEFAULT_PROJECT, first.id, ForkRequest(after_phase="head")))
    assert fork.status == "succeeded", (fork.error, site.log.read_text())
    assert fork.forked_from == ForkedFrom(job=first.id, checkpoint=kept[0].id)
    assert fork.model_id == third.model_id
    assert fork.report is not None
    assert [phase.name for phase in fork.report.phases] == ["all"]
    assert fork.report.ancestry is not None
    (ancestor,) = fork.report.ancestry.ancestors
    assert (ancestor.job, ancestor.way, ancestor.checkpoint) == (first.id, "fork", kept[0].id)
    assert fork.report.ancestry.first_source.model == first.model_id
    written = {artifact.name: artifact.sha256 for artifact in fork.artifacts}
    for name in ("report.json", "manifest.json", "MODEL_CARD.md"):
        site.services.store.fetch(written[name], tmp_path / name)
        assert kept[0].id in (tmp_path / name).read_text()

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
    assert [line["ending"] for line in ended] == ["succeeded"] * 4
    for line in ended:
        assert 0 < line["inputs_seconds"] < line["ready_seconds"] < line["first_step_seconds"] < line["ended_seconds"]
    supervisor = psutil.Process(site.worker.pid)
    maps = Path(f"/proc/{site.worker.pid}/maps").read_text()
    assert "tensorflow" not in maps, "the Celery process is free of it"
    assert supervisor.memory_info().rss < 250 * 1024**2


MAKE_WINE_SOURCE = """
import sys, keras
keras.Sequential([keras.Input((13,)), keras.layers.Dense(16, activation="relu", name="hidden"),
                  keras.layers.Dense(3, name="old")]).save(sys.argv[1] + "/source.keras")
"""

TRY_WINE = """
import csv, sys, keras, numpy as np, tensorflow as tf
model = keras.saving.load_model(sys.argv[1])
rows = list(csv.DictReader(open(sys.argv[2])))
names = [name for name in rows[0] if name not in ("quality", "colour")]
numbers = {name.replace(" ", "_"): tf.constant([[float(row[name])] for row in rows]) for name in names}
predicted = model.predict(numbers | {"colour": tf.constant([[row["colour"]] for row in rows])}, verbose=0)[:, 0]
print(np.mean(np.abs(predicted - [float(row["quality"]) for row in rows])))
"""


def test_a_table_goes_from_its_file_to_a_model_that_takes_rows(site: Site, tmp_path: Path, shared_data: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE_WINE_SOURCE, str(tmp_path)], check=True, capture_output=True)
    options = DatasetOptions(target="quality", task="regression")
    file = site.upload(shared_data / "wine_quality.csv")
    dataset = datasets.create(site.services, DEFAULT_PROJECT, file_id=file, name=None, options=options)
    adam = {"type": "adam", "learning_rate": 0.01}
    request = JobRequest(
        model=site.upload(tmp_path / "source.keras"),
        training_file=dataset.id,
        schedule=[Phase(name="all", unfreeze="all", epochs=5, optimizer=adam)],
        seed=1,
    )
    job = site.run(request)
    assert job.status == "succeeded", (job.error, site.log.read_text())
    assert job.report is not None
    assert {each.name for each in job.report.inputs} >= {"fixed_acidity", "pH", "colour"}
    result = models.get(site.services, DEFAULT_PROJECT, str(job.result_model_id))
    assert result.info is not None
    assert (result.info.input_shape, (result.info.features or [])[-1]) == ([None, 13], "colour=white")
    site.services.store.fetch(result.download[0].sha256, tmp_path / "result.keras")
    command = [sys.executable, "-c", TRY_WINE, str(tmp_path / "result.keras"), str(shared_data / "wine_quality.csv")]
    tried = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(tried.stdout.split()[-1]) < 0.68  # always saying the mean gives 0.685


def test_a_job_whose_worker_was_killed_goes_on_with_another_one_to_the_very_same_weights(
    site: Site, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", MAKE_SOURCE, str(tmp_path)], check=True, capture_output=True)
    request = JobRequest(
        model=site.upload(tmp_path / "source.keras"),
        training_file=site.upload(tmp_path / "data.npz"),
        head={"layers": [{"type": "dropout", "rate": 0.3}]},
        batch_size=4,
        schedule=[
            Phase(name="head", epochs=5),
            Phase(name="all", unfreeze="all", epochs=60, optimizer={"type": "adam", "learning_rate": 0.001}),
        ],
        seed=1,
    )
    job = jobs.submit(site.services, DEFAULT_PROJECT, request)
    for kill in (1, 2):
        _wait_for_news_of_attempt(site, job, kill)
        site.worker.kill()
        site.worker.wait()
        with site.services.db.begin() as session:  # nobody renews it any more
            session.execute(text("UPDATE jobs SET lease_expires_at = 1 WHERE status = 'running'"))
        site.worker = _worker(site.services.settings, site.log)
    interrupted = site.wait(job)
    assert interrupted.status == "succeeded", (interrupted.error, site.log.read_text())
    assert (interrupted.attempt.number, interrupted.resume_fidelity) == (3, "exact")
    again = request.model_copy(update={"model": job.model_id, "training_file": job.dataset_id})
    undisturbed = site.run(again)
    assert _digest(site, interrupted) == _digest(site, undisturbed)
    assert interrupted.report is not None
    assert undisturbed.report is not None
    assert interrupted.report.test == undisturbed.report.test

    told = history.events_since(site.services, DEFAULT_PROJECT, job.id, after_number=0)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert [event.data["attempt"] for event in told if event.type == "resumed"] == [2, 3]
    rows = history.metrics(site.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100, order="asc")).items
    assert [row.number for row in rows] == list(range(1, 66))
    assert {row.attempt for row in rows} == {1, 2, 3}
    others = history.metrics(site.services, DEFAULT_PROJECT, undisturbed.id, PageQuery(limit=100, order="asc")).items
    assert [row.metrics["val_loss"] for row in rows] == [row.metrics["val_loss"] for row in others]


def _wait_for_news_of_attempt(site: Site, job: Job, attempt: int) -> None:
    """Wait until this attempt has kept a checkpoint and trained an epoch more."""
    deadline = time.monotonic() + 120
    while True:
        kept = history.checkpoints(site.services, DEFAULT_PROJECT, job.id, PageQuery(limit=100)).items
        mine = [each.step for each in kept if each.kind == "resume" and each.attempt == attempt]
        (last, *_) = history.metrics(site.services, DEFAULT_PROJECT, job.id, PageQuery(limit=1)).items or [None]
        if mine and last is not None and last.attempt == attempt and last.step > min(mine):
            return
        now = jobs.get(site.services, DEFAULT_PROJECT, job.id)
        assert now.status in {"validating_files", "queued", "running"}, (now.status, now.error, site.log.read_text())
        assert time.monotonic() < deadline, site.log.read_text()
        time.sleep(0.01)


def _digest(site: Site, job: Job) -> str:
    info = models.get(site.services, DEFAULT_PROJECT, str(job.result_model_id)).info
    assert info is not None
    return info.digest


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
