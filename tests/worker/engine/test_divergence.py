"""Numbers that are not finite end a job with what is needed to do better, and the best weights are kept."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.artifacts import Artifact
from app.domain.errors import Failure, UserError
from app.domain.job import Checkpoint
from app.domain.spec import Spec, resolve
from app.storage.local import LocalArtifacts

pytestmark = pytest.mark.tensorflow

CALM = {"name": "calm", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-4}}
LATE = {
    "name": "late",
    "epochs": 6,
    "unfreeze": "all",
    "optimizer": {"type": "sgd", "learning_rate": 1e-3},
    "learning_rate_schedule": {"type": "constant", "warmup_epochs": 1},
}


@pytest.fixture(scope="module")
def source(store_source: Callable[..., Path], build_mlp: Callable[..., Any]) -> Path:
    return store_source(build_mlp(), rescale="none")


def _arrays(**changed: Any) -> dict[str, Any]:
    random = np.random.default_rng(3)
    arrays = {}
    for split, count in (("train", 48), ("validation", 16), ("test", 16)):
        x = random.normal(size=(count, 6)).astype("float32")
        arrays[f"x_{split}"], arrays[f"y_{split}"] = x, x.sum(axis=1)
    for name, value in changed.items():
        arrays[name][:] = value
    return arrays


@pytest.fixture(scope="module")
def good(store_dataset: Callable[..., Path]) -> Path:
    return store_dataset(**_arrays())


class Diverging:
    """Runs a job that diverges."""

    def __init__(self, source: Path, recorder: Any) -> None:
        self._source = source
        self._recorder = recorder

    def run(self, data: Path, workdir: Path, *phases: dict[str, Any], **fields: Any) -> tuple[Failure, Any]:
        reporter = self._recorder()
        with pytest.raises(UserError) as caught:
            self._train(data, workdir, phases, reporter, **fields)
        assert caught.value.failure().code == "diverged"
        return caught.value.failure(), reporter

    def interrupt(self, data: Path, workdir: Path, *phases: dict[str, Any], epochs: int, checks: int) -> Any:
        """Stop it so many checks after so many epochs; the reporter."""
        from worker.engine.reporter import TrainingStopped

        class Stopping(self._recorder):  # type: ignore[misc, name-defined]  # a class that a fixture hands out
            left = checks

            def check(self) -> None:
                if len(self.of("epoch")) == epochs:
                    self.left -= 1
                    if self.left < 0:
                        raise TrainingStopped

        reporter = Stopping()
        with pytest.raises(TrainingStopped):
            self._train(data, workdir, phases, reporter)
        return reporter

    def _train(self, data: Path, workdir: Path, phases: Any, reporter: Any, **fields: Any) -> None:
        from worker.engine.train import train

        spec = resolve(Spec(schedule=list(phases), batch_size=8, **fields), seed=1)
        train(spec, self._source, data, workdir, reporter)


@pytest.fixture(scope="module")
def diverging(source: Path, recorder: Any) -> Diverging:
    return Diverging(source, recorder)


@pytest.fixture
def spoilt() -> Any:
    """Makes the weights NaN after so many steps, as an optimizer does that overflows."""
    with ExitStack() as stack:

        def spoil(*, after: int) -> None:
            from worker.engine.steps import TrainStep

            class Spoiling(TrainStep):
                taken = 0

                def __call__(self, *batch: Any) -> Any:
                    sums = super().__call__(*batch)
                    Spoiling.taken += 1
                    if Spoiling.taken == after:
                        for variable in self._variables:
                            variable.assign(variable * float("nan"))
                    return sums

            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr("worker.engine.phases.TrainStep", Spoiling)

        yield spoil


def _kept(reporter: Any) -> list[tuple[str, int, int]]:
    return [(each.phase.name, each.phase.epoch, each.step) for each in reporter.of("weights_kept")]


def test_a_training_that_diverges_late_keeps_the_weights_of_its_best_epoch(
    diverging: Diverging, good: Path, tmp_path: Path, spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    from worker.engine import checkpoint

    monkeypatch.setattr(checkpoint, "PATIENCE", 0)
    spoilt(after=6 + 3 * 6 + 2)  # the phase before, three epochs, two steps
    failure, reporter = diverging.run(good, tmp_path, CALM, LATE)
    assert failure.phase == "late"
    assert "phase 'late', epoch 4, step 3" in failure.message
    assert "The weights after epoch 3 of this phase are kept" in failure.message
    losses = [epoch.metrics["val_loss"] for epoch in reporter.of("epoch")][1:]
    assert losses == sorted(losses, reverse=True), "the third epoch is the best one"
    assert _kept(reporter) == [("late", 3, 24)]
    (kept,) = reporter.of("weights_kept")
    arrays = load_file(tmp_path / kept.checkpoint)
    assert all(np.isfinite(array).all() for array in arrays.values())
    newest = max((tmp_path / "checkpoints").glob("resume-*"))
    for name, array in load_file(newest / "weights.safetensors").items():
        assert np.array_equal(array, arrays[name])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the validation losses what the test says, and each epoch end with a checkpoint."""

    def measure(*losses: float) -> None:
        from worker.engine import checkpoint, execution

        left = iter(losses)
        monkeypatch.setattr(checkpoint, "PATIENCE", 0)
        monkeypatch.setattr(
            execution, "evaluate_batches", lambda run, *_: {"loss": next(left), run.objective.metric: 1.0}
        )

    return measure


def _stored(store: LocalArtifacts, workdir: Path, told: Any) -> Checkpoint:
    files = [Artifact(name=name, **store.put_file(workdir / told.folder / name).model_dump()) for name in told.files]
    return Checkpoint(
        id=f"ckpt-{told.number}",
        kind="resume",
        job_id="ftjob-1",
        created_at=0,
        attempt=1,
        artifact=None,
        files=files,
        **told.model_dump(include={"number", "step", "phase", "metrics"}),
    )


@pytest.mark.parametrize("checks", [0, 1], ids=["between two epochs", "within an epoch"])
@pytest.mark.parametrize("where", ["the same folder", "the store"])
def test_what_goes_on_and_then_diverges_keeps_the_best_epoch_from_before(
    *, where: str, checks: int, diverging: Diverging, good: Path, tmp_path: Path, spoilt: Any, measured: Any
) -> None:
    from safetensors.numpy import load_file

    from worker.resumption import place

    measured(0.3, 0.4, 0.5, 0.6, 0.7)
    first = again = tmp_path / "first"
    told = diverging.interrupt(good, first, LATE, epochs=3, checks=checks).of("checkpoint")
    assert [each.metrics.get("val_loss") for each in told] == [0.3, 0.4, 0.5, None][: 3 + checks]
    best = load_file(first / told[0].folder / "weights.safetensors")
    if where == "the store":
        store, again = LocalArtifacts(tmp_path / "store"), tmp_path / "again"
        left = [each for each in reversed(told) if (first / each.folder).is_dir()]
        place([_stored(store, first, each) for each in left], again, store)
    spoilt(after=2)
    failure, reporter = diverging.run(good, again, LATE)
    (resumed,) = reporter.of("resumed")
    assert resumed.step == told[-1].step, "it goes on from the newest, not from the best"
    assert "The weights after epoch 1 of this phase are kept" in failure.message
    assert _kept(reporter) == [("late", 1, 6)]
    arrays = load_file(again / reporter.of("weights_kept")[0].checkpoint)
    assert all(np.array_equal(array, arrays[name]) for name, array in best.items())


def test_the_best_epoch_of_a_phase_is_kept_also_where_the_phase_before_was_better(
    diverging: Diverging, good: Path, tmp_path: Path, spoilt: Any, measured: Any
) -> None:
    measured(0.1, 0.3, 0.4, 0.5)
    spoilt(after=6 + 3 * 6 + 2)
    _, reporter = diverging.run(good, tmp_path, CALM, LATE)
    assert _kept(reporter) == [("late", 1, 12)]


def test_what_diverges_at_once_has_nothing_of_its_own_to_keep(
    diverging: Diverging, good: Path, tmp_path: Path, spoilt: Any
) -> None:
    spoilt(after=6 + 2)
    failure, reporter = diverging.run(good, tmp_path, CALM, LATE)
    assert _kept(reporter) == []
    assert "are kept" not in failure.message
    assert [each.phase.name for each in reporter.of("phase_finished")] == ["calm"], "whose weights are kept anyway"


def test_weights_that_are_not_finite_after_the_last_step_are_no_checkpoint(
    diverging: Diverging, good: Path, tmp_path: Path, spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import execution

    # A validation split that does not notice, such as one that needs none of the weights concerned.
    monkeypatch.setattr(execution, "evaluate_batches", lambda run, *_: {"loss": 1.0, run.objective.metric: 1.0})
    spoilt(after=6)
    failure, reporter = diverging.run(good, tmp_path, LATE)
    assert "became NaN or infinite in phase 'late', epoch 1, step 6" in failure.message
    assert reporter.of("checkpoint") == reporter.of("phase_finished") == []


@pytest.mark.parametrize("cache", ["off", "require"])
def test_validation_alone_may_diverge(
    diverging: Diverging, store_dataset: Callable[..., Path], tmp_path: Path, cache: str
) -> None:
    data = store_dataset(**_arrays(x_validation=3e38))
    failure, _ = diverging.run(data, tmp_path, CALM, cache=cache)
    assert "phase 'calm', epoch 1, validation batch 1" in failure.message


def test_the_test_split_alone_may_diverge(
    diverging: Diverging, store_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    failure, reporter = diverging.run(store_dataset(**_arrays(x_test=3e38)), tmp_path, CALM)
    assert failure.error_class == "user"
    assert "on the test split, in batch 1" in failure.message
    assert len(reporter.of("phase_finished")) == 1


def test_the_very_step_is_named_although_many_run_in_one_execution(
    diverging: Diverging, store_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import caching
    from worker.engine.data import epoch_order, open_dataset

    monkeypatch.setattr(caching._Loop, "_adapt", lambda self, *_: setattr(self, "_together", 6))
    arrays = _arrays()
    arrays["y_train"][20] = 1e30  # its square is no float32 any more
    data = store_dataset(**arrays)
    stored = int(np.argmax(open_dataset(data).split("train").labels))
    spoilt_step = int(np.flatnonzero(epoch_order(48, (1, 0)) == stored)[0]) // 8 + 1
    assert spoilt_step > 3, "one of those that run together with others"
    for cache in ("off", "require"):
        failure, _ = diverging.run(data, tmp_path / cache, {**CALM, "epochs": 3}, cache=cache)
        assert f"phase 'calm', epoch 1, step {spoilt_step};" in failure.message
