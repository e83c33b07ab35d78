"""Checkpoints as models: what the job would have given back, had it ended there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetInfo
from app.domain.errors import PlatformError, SourceError
from app.domain.model import ModelOptions, SourceInfo
from app.domain.spec import ResolvedSpec, Spec, resolve

pytestmark = pytest.mark.tensorflow

HEAD = {"name": "head", "unfreeze": "none", "epochs": 2, "optimizer": {"type": "sgd", "learning_rate": 0.1}}
ALL = {"name": "all", "unfreeze": "all", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 0.1}}


def spec_of(*phases: dict[str, Any]) -> ResolvedSpec:
    return resolve(Spec(schedule=list(phases), batch_size=16), seed=3)


@dataclasses.dataclass
class Job:
    """A job of two phases that has ended."""

    source: Path
    data: Path
    workdir: Path
    digest: str
    spec: ResolvedSpec

    def restore(self, phase: int, destination: Path, *, spec: ResolvedSpec | None = None) -> SourceInfo:
        from worker.engine.restore import restore

        return restore(
            self.workdir / "checkpoints" / f"phase-{phase:02d}.safetensors",
            destination,
            spec=spec or self.spec,
            source=self.source,
            data=DatasetInfo.model_validate_json((self.data / "dataset.json").read_bytes()),
            origin="ckpt-1",
            options=ModelOptions(),
        )


@pytest.fixture(scope="module")
def job(
    store_source: Callable[..., Path],
    store_dataset: Callable[..., Path],
    build_mlp: Callable[..., Any],
    recorder: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    from worker.engine.train import train

    x = np.random.default_rng(0).integers(0, 256, (90, 6)).astype("uint8")
    data = store_dataset(x=x, y=np.arange(90) % 3)
    source = store_source(build_mlp(), rescale="minus_one_to_one")
    workdir = tmp_path_factory.mktemp("work")
    trained = train(spec_of(HEAD, ALL), source, data, workdir, recorder())
    return Job(source, data, workdir, trained.info.digest, spec_of(HEAD, ALL))


def test_the_last_checkpoint_is_the_result(job: Job, tmp_path: Path) -> None:
    info = job.restore(2, tmp_path / "m")
    assert info.digest == job.digest
    assert (info.format, info.origin, info.rescale) == ("checkpoint", "ckpt-1", "none")
    assert info.labels == ["0", "1", "2"]


def test_an_earlier_checkpoint_is_the_result_of_the_job_without_the_later_phases(
    job: Job, tmp_path: Path, recorder: Any
) -> None:
    from worker.engine.train import train

    shorter = train(spec_of(HEAD), job.source, job.data, tmp_path / "work", recorder())
    info = job.restore(1, tmp_path / "m")
    assert info.digest == shorter.info.digest != job.digest


def test_weights_of_another_job_are_refused_and_leave_nothing(job: Job, tmp_path: Path) -> None:
    wider = resolve(Spec(schedule=[HEAD], head={"layers": [{"type": "dense", "units": 5}]}), seed=3)
    with pytest.raises(SourceError, match=r"should have shape|does not have"):
        job.restore(1, tmp_path / "m", spec=wider)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_told(job: Job, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "phase-01.safetensors").write_bytes(b"half a file")
    with pytest.raises(PlatformError, match="'ckpt-1' cannot be read") as caught:
        dataclasses.replace(job, workdir=tmp_path).restore(1, tmp_path / "m")
    assert caught.value.work_code == "checkpoint_damaged"
