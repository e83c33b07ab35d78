"""Databases of both kinds, and services on them without Redis or workers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.artifacts import Artifact
from app.domain.dataset import Dataset, DatasetInfo, DatasetOptions, SplitInfo
from app.domain.file import File
from app.domain.job import Job, JobRequest
from app.domain.model import LayerRow, Model, ModelOptions, SourceInfo
from app.domain.progress import CheckpointWritten, EpochFinished, FreezeProof, PhaseFinished, PhaseProgress
from app.domain.report import Evaluation, Interval, PhaseReport, Report, SourceReceipt
from app.services import claims, datasets, files, jobs, models, reports
from app.services.context import Services
from app.settings import Settings
from app.storage.database import Database, now, upgrade
from app.storage.local import LocalArtifacts
from app.storage.tables import METADATA, Leased, ProjectRow
from tests.servers import Postgres, postgres_folder

PROJECT = "default"

# === A real PostgreSQL ===


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


# === Databases ===


@pytest.fixture(scope="session")
def sqlite_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from _upgraded(f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'thaw.db'}")


@pytest.fixture(scope="session")
def postgresql_database(postgres: Postgres) -> Iterator[Database]:
    yield from _upgraded(postgres.create_database("thaw"))


def _upgraded(url: str) -> Iterator[Database]:
    database = Database(url)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database with the schema of this version; each test runs on both kinds.

    All tests share its connections, and the statements that were compiled for them once.
    """
    database: Database = request.getfixturevalue(f"{request.param}_database")
    yield database
    empty(database)


def empty(database: Database) -> None:
    """Delete all rows but the one project that there is."""
    with database.begin() as session:
        for table in reversed(METADATA.sorted_tables):
            session.execute(table.delete())
        session.add(ProjectRow(id=PROJECT, created_at=0))


# === Services ===


class Bell:
    """A doorbell that remembers who was rung."""

    def __init__(self) -> None:
        self.rings: list[tuple[str, str, str]] = []
        self.answers = True

    def ring(self, task: str, identifier: str, *, queue: str) -> bool:
        if self.answers:
            self.rings.append((task, identifier, queue))
        return self.answers

    def reachable(self) -> bool:
        return self.answers


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def services(db: Database, bell: Bell, tmp_path: Path) -> Services:
    settings = Settings(data_dir=tmp_path, database_url=db.engine.url.render_as_string(hide_password=False))
    return Services(settings=settings, db=db, store=LocalArtifacts(settings.artifacts_dir()), doorbell=bell)


class World:
    """Makes things through the services, with sensible values for what a test does not care about."""

    layers = ("in", "dense_1", "dense_2", "out")

    def __init__(self, services: Services) -> None:
        self.services = services

    def file(self, name: str = "shoes.keras") -> File:
        with self.services.store.writer(max_bytes=100) as writer:
            writer.write(name.encode())
            blob = writer.commit()
        return files.create(self.services, PROJECT, filename=name, purpose="fine-tune", blob=blob)

    def info(self, **changes: Any) -> SourceInfo:
        rows = [
            LayerRow(
                index=index,
                path=path,
                class_name="Dense",
                output_shape=[None, 4],
                parameters=20 if index else 0,
                has_weights=index > 0,
                legal_cut=index > 0,
            )
            for index, path in enumerate(self.layers)
        ]
        values = {
            "format": "keras",
            "keras_version": "3.15.1",
            "class_name": "Sequential",
            "name": "shoes",
            "input_shape": [None, 4],
            "input_dtype": "float32",
            "output_shape": [None, 4],
            "parameters": 60,
            "layers": rows,
            "rescale": None,
            "digest": "d" * 64,
        }
        return SourceInfo(**{**values, **changes})

    def data_info(self, **changes: Any) -> DatasetInfo:
        split = SplitInfo(examples=200, class_counts={"a": 100, "b": 100})
        values = {
            "kind": "arrays",
            "task": "binary",
            "example_shape": [4],
            "dtype": "float32",
            "value_range": (-3.0, 5.0),
            "classes": ["a", "b"],
            "splits": {"train": split, "validation": split, "test": split},
            "digest": "e" * 64,
        }
        return DatasetInfo(**{**values, **changes})

    def artifact(self, name: str = "model.keras") -> Artifact:
        return Artifact(name=name, sha256="a" * 64, bytes=3)

    def model(self, info: SourceInfo | None = None) -> Model:
        """A ready one."""
        model = models.register(self.services, PROJECT, file_id=self.file().id, name=None, options=ModelOptions())
        self.finish_model(model.id, info)
        return models.get(self.services, PROJECT, model.id)

    def finish_model(self, identifier: str, info: SourceInfo | None = None) -> None:
        claim = claims.claim_model(self.services, identifier, worker="w0")
        assert claim is not None
        canonical = [self.artifact("config.json")]
        reports.finish_model(self.services, claim, info=info or self.info(), canonical=canonical)

    def dataset(self, info: DatasetInfo | None = None) -> Dataset:
        """A ready one."""
        file_id = self.file("shoes.npz").id
        dataset = datasets.create(self.services, PROJECT, file_id=file_id, name=None, options=DatasetOptions())
        self.finish_dataset(dataset.id, info)
        return datasets.get(self.services, PROJECT, dataset.id)

    def finish_dataset(self, identifier: str, info: DatasetInfo | None = None) -> None:
        claim = claims.claim_dataset(self.services, identifier, worker="w0")
        assert claim is not None
        canonical = [self.artifact("dataset.json")]
        reports.finish_dataset(self.services, claim, info=info or self.data_info(), preview=[], canonical=canonical)

    def request(self, **changes: Any) -> JobRequest:
        if "model" not in changes:
            changes["model"] = self.model().id
        if "training_file" not in changes:
            changes["training_file"] = self.dataset().id
        return JobRequest.model_validate(changes)

    def job(self, **changes: Any) -> Job:
        """A queued one, if model and dataset are not given otherwise."""
        return jobs.submit(self.services, PROJECT, self.request(**changes))

    def claim(self, job: Job | None = None, *, worker: str = "w1") -> claims.JobClaim:
        """A running one."""
        claim = claims.claim_job(self.services, (job or self.job()).id, worker=worker)
        assert claim is not None
        return claim

    def get(self, job: Job | claims.JobClaim) -> Job:
        return jobs.get(self.services, PROJECT, job.identifier if isinstance(job, claims.JobClaim) else job.id)

    def succeed(self, claim: claims.JobClaim) -> Job:
        return reports.succeed_job(
            self.services,
            claim,
            artifacts=[self.artifact(), self.artifact("report.json")],
            canonical=[self.artifact("config.json")],
            info=self.info(labels=["a", "b"]),
            report=self.report(claim),
        )

    def report(self, claim: claims.JobClaim) -> Report:
        return Report(
            task="binary",
            labels=["a", "b"],
            spec=claim.job.spec,
            cut_layer="dense_2",
            dataset_digest="e" * 64,
            source=SourceReceipt(model_digest_before="d", model_digest_after="d", unchanged=True),
            phases=[
                PhaseReport(
                    name="head",
                    epochs_run=4,
                    stopped_early=False,
                    trainable_parameters=1,
                    frozen_parameters=2,
                    seconds=1.5,
                    proof=self.proof("head"),
                )
            ],
            test=Evaluation(examples=30, loss=0.1, accuracy=Interval(value=0.9, low=0.8, high=0.95)),
            best_validation={"loss": 0.1},
            seconds={"training": 1.5},
            versions={"keras": "3.15.1"},
            device="cpu",
            parameters=60,
        )

    def proof(self, phase: str) -> FreezeProof:
        return FreezeProof(
            phase=phase,
            frozen_variables=4,
            frozen_digest_before="f",
            frozen_digest_after="f",
            trained_variables=2,
            moved_variables=2,
            held=True,
        )

    def place(self, epoch: int, *, phase: int = 1, name: str = "head", epochs: int = 4) -> PhaseProgress:
        return PhaseProgress(index=phase, name=name, epoch=epoch, epochs=epochs)

    def epoch(self, epoch: int, *, seconds: float = 2.0, **place: Any) -> EpochFinished:
        return EpochFinished(
            phase=self.place(epoch, **place), step=epoch * 10, metrics={"loss": 1 / epoch, "seconds": seconds}
        )

    def phase_end(self, **place: Any) -> PhaseFinished:
        where = self.place(4, **place)
        return PhaseFinished(phase=where, stopped_early=False, proof=self.proof(where.name), checkpoint="c/1.weights")

    def checkpoint(
        self,
        number: int,
        *,
        step: int,
        epoch: int = 1,
        val_loss: float | None = 0.5,
        fidelity: str = "exact",
        **place: Any,
    ) -> CheckpointWritten:
        """Of `val_loss=None`: within the epoch."""
        return CheckpointWritten(
            phase=self.place(epoch, **place),
            number=number,
            step=step,
            metrics={} if val_loss is None else {"val_loss": val_loss},
            folder=f"c/{number}",
            files=["meta.json", "weights.safetensors"],
            fidelity=fidelity,
        )

    def keep(self, claim: claims.JobClaim, number: int, **about: Any) -> list[str]:
        """A worker uploads a checkpoint and tells of it; sha256 of its files."""
        told, files = self.checkpoint(number, **about), {}
        for name in told.files:
            with self.services.store.writer(max_bytes=1000) as writer:
                writer.write(f"{claim.identifier} {claim.attempt} {number} {name}".encode())
                files[f"{told.folder}/{name}"] = Artifact(name=name, **writer.commit().model_dump())
        reports.progress(self.services, claim, [told], checkpoints=files)
        return [file.sha256 for file in files.values()]

    def set(self, row: type[Leased], identifier: str, **values: Any) -> None:
        """Change a row behind the services' back."""
        with self.services.db.begin() as session:
            session.execute(update(row).where(row.id == identifier).values(**values))

    def expire(self, row: type[Leased], identifier: str) -> None:
        """The lease ran out a second ago: its worker was not heard of."""
        self.set(row, identifier, lease_expires_at=now() - 1)

    def clear(self) -> None:
        """Begin anew: an empty database, an empty store."""
        empty(self.services.db)
        for folder in self.services.settings.artifacts_dir().glob("sha256/*"):
            shutil.rmtree(folder)


@pytest.fixture
def world(services: Services) -> World:
    return World(services)
