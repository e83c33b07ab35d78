"""Checkpoints as models: what the job would have given back, had it ended there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain import remaining
from app.domain.dataset import DatasetInfo
from app.domain.errors import PlatformError, SourceError
from app.domain.job import Checkpoint
from app.domain.model import ModelOptions, SourceInfo
from app.domain.phases import Phase
from app.domain.progress import PhaseProgress
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


# === What was left, on the model of a checkpoint ===


def branched() -> Any:
    """`first`, then `left` and `right` beside each other, `norm`, `old`."""
    import keras
    from keras import layers

    inputs = keras.Input((6,), name="features")
    tensor = layers.Dense(8, name="first")(inputs)
    tensor = layers.Add(name="sum")([layers.Dense(8, name="left")(tensor), layers.Dense(8, name="right")(tensor)])
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="old")(layers.LayerNormalization()(tensor)))


def trains(network: Any, phase: Phase) -> tuple[dict[str, float], set[str], set[str]]:
    """Trained weights with their part of the rate, those that may move, and the layers that draw at random."""
    from worker.engine import schedule, surgery, traits

    selection = schedule.select(network, phase)
    schedule.freeze(network, selection)
    rates = dict.fromkeys(selection.trained, 1.0)
    by_id = {id(weight): name for name, weight in selection.trained.items()}
    rates |= {by_id[id(weight)]: factor for weight, factor in selection.rate_factors()}
    rests = not network.backbone.trainable_variables  # as `steps.WholeModel` has it
    drawing = surgery.leaf_layers(network.head if rests else network.model)
    moving = set(schedule.weights_of(network.model)) - set(selection.frozen)
    return rates, moving, {path for path, layer in drawing if traits.draws(layer)}


@pytest.mark.parametrize(
    "head",
    [[], ["dropout"], ["dense"], ["batch_normalization"], ["dense", "batch_normalization", "dropout", "dense"]],
    ids=["output", "dropout", "dense", "norm", "all"],
)
def test_what_was_left_trains_the_same_weights_on_the_model_of_the_checkpoint(
    store_source: Callable[..., Path], store_dataset: Callable[..., Path], tmp_path: Path, head: list[str]
) -> None:
    from safetensors.numpy import save_file

    from worker.engine import assembly, canonical, sources

    more = {"dense": {"units": 5}, "dropout": {"rate": 0.5}}
    layers = [{"type": name, **more.get(name, {})} for name in head]
    unfreezes = [{"last": 1}, {"last": 3}, {"fraction": 0.5}, {"from_layer": "right"}, "all"]
    if head != ["dropout"]:  # that is refused
        unfreezes.append("none")
    phases = [{"epochs": 1}, *({"epochs": 1, "unfreeze": each} for each in unfreezes)]
    spec = resolve(Spec(head={"layers": layers}, schedule=phases), seed=3)
    dataset = store_dataset(x=np.random.default_rng(0).normal(size=(90, 6)).astype("float32"), y=np.arange(90) % 3)
    data = DatasetInfo.model_validate_json((dataset / "dataset.json").read_bytes())
    source = store_source(branched(), rescale="none")
    before = assembly.network(spec, sources.load(source), data)
    (tmp_path / "checkpoints").mkdir()
    save_file(canonical.weights_of(before.model), tmp_path / "checkpoints" / "phase-01.safetensors")
    Job(source, dataset, tmp_path, "", spec).restore(1, tmp_path / "m")
    place = PhaseProgress(index=1, name="phase-1", epoch=1, epochs=1)
    checkpoint = Checkpoint.model_construct(kind="phase", number=1, phase=place, metrics={})
    left = remaining.phases(spec, checkpoint, sources.load(source).info.layers)
    forked = resolve(Spec(head="keep", cut={"drop_last": 0}, schedule=left), seed=3)
    after = assembly.network(forked, sources.load(tmp_path / "m"), data)
    for old, new in zip(spec.schedule[1:], forked.schedule, strict=True):
        assert trains(after, new) == trains(before, old), old.unfreeze
