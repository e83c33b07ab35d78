"""A real application on SQLite with the real services; only the doorbell is a fake, and nobody trains."""

import dataclasses
import hashlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.domain.artifacts import Artifact
from app.domain.dataset import DatasetInfo, PreviewExample, SplitInfo
from app.domain.exports import Export
from app.domain.model import LayerRow, SourceInfo
from app.domain.progress import EpochFinished, FreezeProof, PhaseFinished, PhaseProgress, Progress, StageStarted
from app.domain.report import Evaluation, Interval, PhaseReport, Report, SourceReceipt
from app.main import create_app, listen, server_for
from app.services import claims, reports
from app.services.claims import JobClaim
from app.services.context import Services
from app.services.health import Checkup
from app.settings import Settings
from app.storage.database import Database, upgrade

KEY = "thaw_test-key"
WORKER = "worker-1"
LAYERS = ("input", "hidden_1", "hidden_2", "output")


class FakeDoorbell:
    """Remembers who was rung."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str, str]] = []

    def ring(self, task: str, identifier: str, *, queue: str) -> bool:
        self.rung.append((task, identifier, queue))
        return True

    def reachable(self) -> bool:
        return True

    def close(self) -> None:
        """Has nothing to close."""


class Thaw:
    """The service under test: a client with the key, and what a worker would do."""

    def __init__(self, app: FastAPI, client: httpx2.Client, doorbell: FakeDoorbell) -> None:
        self.app = app
        self.client = client
        self.doorbell = doorbell

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    # === What a person does ===

    def upload(self, content: bytes = b"some bytes", name: str = "source.keras") -> str:
        response = self.client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def post(self, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        response = self.client.post(path, json=body, headers=headers)
        assert response.status_code == 201, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def job(self, **body: Any) -> str:
        """A job on a fresh ready model and dataset, waiting in the queue."""
        body = {"model": self.ready_model(), "training_file": self.ready_dataset(), **body}
        return str(self.post("/v1/fine_tuning/jobs", body)["id"])

    # === What a worker does ===

    def blob(self, content: bytes, name: str) -> Artifact:
        with self.services.store.writer(max_bytes=10**9) as writer:
            writer.write(content)
            blob = writer.commit()
        return Artifact(name=name, sha256=blob.sha256, bytes=blob.bytes)

    def ready_model(self, **body: Any) -> str:
        identifier = str(self.post("/v1/models", {"file": self.upload(), **body})["id"])
        claim = claims.claim_model(self.services, identifier, worker=WORKER)
        assert claim is not None
        reports.finish_model(self.services, claim, info=source_info(), canonical=[self.blob(b"{}", "config.json")])
        return identifier

    def ready_dataset(self, **body: Any) -> str:
        file = self.upload(b"examples", name="shoes.npz")
        identifier = str(self.post("/v1/datasets", {"file": file, **body})["id"])
        claim = claims.claim_dataset(self.services, identifier, worker=WORKER)
        assert claim is not None
        reports.finish_dataset(
            self.services,
            claim,
            info=dataset_info(),
            preview=[PreviewExample(split="train", index=0, label="sandal", shape=[4], values=[0.0, 0.5, 1.0, 0.25])],
            canonical=[self.blob(b"{}", "dataset.json")],
        )
        return identifier

    def claim(self, job_id: str) -> JobClaim:
        claim = claims.claim_job(self.services, job_id, worker=WORKER)
        assert claim is not None
        return claim

    def run_epochs(self, claim: JobClaim, epochs: int, *, checkpoint: bytes | None = None) -> None:
        """Report some epochs of the first phase, and its end if there is a checkpoint."""
        news: list[Progress] = [StageStarted(stage="training")]
        for epoch in range(1, epochs + 1):
            phase = PhaseProgress(index=1, name="head", epoch=epoch, epochs=epochs)
            news.append(EpochFinished(phase=phase, step=epoch * 10, metrics={"loss": 1 / epoch, "val_loss": 2 / epoch}))
        artifacts = {}
        if checkpoint is not None:
            news.append(PhaseFinished(phase=phase, stopped_early=False, proof=proof(), checkpoint="phase-1"))
            artifacts["phase-1"] = self.blob(checkpoint, "phase-1.weights.h5")
        reports.progress(self.services, claim, news, checkpoints=artifacts)

    def succeed(
        self,
        claim: JobClaim,
        *,
        model: bytes = b"trained" * 1000,
        files: Mapping[str, bytes] | None = None,
        exports: Sequence[Export] = (),
    ) -> None:
        contents = {"model.keras": model, "labels.json": b"[]", **(files or {})}
        reports.succeed_job(
            self.services,
            claim,
            artifacts=[self.blob(content, name) for name, content in contents.items()],
            canonical=[self.blob(b"{}", "config.json")],
            info=source_info(),
            report=report(claim).model_copy(update={"exports": list(exports)}),
        )


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def source_info() -> SourceInfo:
    """A small MLP: an input and three dense layers."""
    rows = [
        LayerRow(
            index=index,
            path=path,
            class_name="InputLayer" if index == 0 else "Dense",
            output_shape=[None, 4],
            parameters=0 if index == 0 else 20,
            has_weights=index > 0,
            legal_cut=True,
        )
        for index, path in enumerate(LAYERS)
    ]
    return SourceInfo(
        format="keras",
        keras_version="3.15.1",
        class_name="Sequential",
        name="mlp",
        input_shape=[None, 4],
        input_dtype="float32",
        output_shape=[None, 4],
        parameters=60,
        layers=rows,
        rescale=None,
        labels=["a", "b", "c", "d"],
        digest=digest("source"),
    )


def dataset_info() -> DatasetInfo:
    counts = {"sandal": 10, "shirt": 10}
    return DatasetInfo(
        kind="arrays",
        task="binary",
        example_shape=[4],
        dtype="float32",
        value_range=(0.0, 1.0),
        classes=["sandal", "shirt"],
        splits={name: SplitInfo(examples=20, class_counts=counts) for name in ("train", "validation", "test")},
        digest=digest("data"),
    )


def proof() -> FreezeProof:
    return FreezeProof(
        phase="head",
        frozen_variables=4,
        frozen_digest_before=digest("frozen"),
        frozen_digest_after=digest("frozen"),
        trained_variables=2,
        moved_variables=2,
        held=True,
    )


def report(claim: JobClaim) -> Report:
    phase = PhaseReport(
        name="head",
        epochs_run=2,
        stopped_early=False,
        trainable_parameters=5,
        frozen_parameters=40,
        seconds=1.0,
        proof=proof(),
    )
    return Report(
        task="binary",
        labels=["sandal", "shirt"],
        spec=claim.job.spec,
        cut_layer="hidden_2",
        dataset_digest=digest("data"),
        source=SourceReceipt(model_digest_before=digest("source"), model_digest_after=digest("source"), unchanged=True),
        phases=[phase],
        test=Evaluation(examples=20, loss=0.1, accuracy=Interval(value=0.95, low=0.76, high=0.99)),
        best_validation={"val_loss": 0.1},
        seconds={"training": 1.0},
        versions={"keras": "3.15.1"},
        device="cpu",
        parameters=45,
    )


@pytest.fixture(autouse=True)
def _plain_traces() -> Iterator[None]:
    """Unconfigured, structlog draws every local variable of a trace, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema of today: copying it is quicker than migrating each test's own."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("fresh"))
    database = Database(settings.resolved_database_url())
    upgrade(database)
    database.close()
    return settings.data_dir / "thaw.db"


@pytest.fixture
def settings(tmp_path: Path, fresh_database: Path) -> Settings:
    (tmp_path / "data").mkdir()
    shutil.copy(fresh_database, tmp_path / "data" / "thaw.db")
    return Settings(
        data_dir=tmp_path / "data",
        api_key=KEY,
        event_poll_seconds=0.05,
        sweep_seconds=3600,
        min_free_disk_bytes=0,
        max_upload_bytes=10**6,
    )


@pytest.fixture
def thaw(settings: Settings) -> Iterator[Thaw]:
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {KEY}"}
    with TestClient(app, base_url="http://127.0.0.1:8420", headers=headers, raise_server_exceptions=False) as client:
        yield with_fake_doorbell(app, client)


@pytest.fixture
def live(settings: Settings) -> Iterator[Thaw]:
    """The same behind a real server on a free loopback port; `live.client.base_url` is where."""
    app = create_app(settings)
    with listen("127.0.0.1", 0) as listener:
        server = server_for(app, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        headers, url = {"Authorization": f"Bearer {KEY}"}, f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx2.Client(base_url=url, headers=headers, trust_env=False) as client:
            yield with_fake_doorbell(app, client)
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def with_fake_doorbell(app: FastAPI, client: httpx2.Client) -> Thaw:
    doorbell = FakeDoorbell()
    app.state.services = dataclasses.replace(app.state.services, doorbell=doorbell)
    app.state.checkup = Checkup(app.state.services)
    return Thaw(app, client, doorbell)


@pytest.fixture
def client(thaw: Thaw) -> httpx2.Client:
    return thaw.client


@pytest.fixture
def stranger(thaw: Thaw) -> TestClient:
    """A client without a key."""
    return TestClient(thaw.app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False)
