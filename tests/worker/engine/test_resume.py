"""Interrupted anywhere, a run ends in the very bits of one that was left alone."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.domain.report import Report
from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import TrainingStopped

pytestmark = pytest.mark.tensorflow

SGD = {"type": "sgd", "learning_rate": 0.05}
MOMENTUM = {"type": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True}
ADAM = {"type": "adam", "learning_rate": 0.01}
STOPPING = {"patience": 1, "min_delta": 0.002, "restore_best": True}

DROPOUT = {"layers": [{"type": "dense", "units": 8}, {"type": "dropout", "rate": 0.4}]}
NORMALIZED = {"layers": [{"type": "dense", "units": 8}, {"type": "batch_normalization"}]}

JOBS: Mapping[str, dict[str, Any]] = {
    "two phases, momentum": {
        "schedule": [{"epochs": 2, "optimizer": SGD}, {"epochs": 2, "unfreeze": "all", "optimizer": MOMENTUM}]
    },
    "dropout, adam": {
        "head": DROPOUT,
        "schedule": [{"epochs": 3, "optimizer": ADAM}, {"epochs": 2, "unfreeze": {"last": 1}, "optimizer": ADAM}],
    },
    "early stopping, adam": {
        "head": NORMALIZED,
        "schedule": [
            {"epochs": 6, "unfreeze": "all", "optimizer": {**ADAM, "learning_rate": 0.2}, "early_stopping": STOPPING},
            {"epochs": 2, "optimizer": {"type": "nadam", "learning_rate": 0.01}},
        ],
    },
    "carried optimizer from the best epoch, layer decay, rates that move": {
        "schedule": [
            {"epochs": 3, "unfreeze": {"last": 1}, "optimizer": {**ADAM, "learning_rate": 0.3}},
            {
                "epochs": 3,
                "unfreeze": "all",
                "optimizer": {**ADAM, "learning_rate": 0.05},
                "optimizer_state": "carry",
                "start_from": "best",
                "layer_decay": 0.5,
                "learning_rate_schedule": {"type": "cosine"},
            },
        ],
    },
    "cached features": {
        "cache": "require",
        "head": DROPOUT,
        "schedule": [{"epochs": 4, "optimizer": ADAM}, {"epochs": 2, "unfreeze": {"last": 1}, "optimizer": MOMENTUM}],
    },
    "random weights, rmsprop": {
        "backbone_weights": "random",
        "schedule": [{"epochs": 3, "unfreeze": "all", "optimizer": {"type": "rmsprop", "learning_rate": 0.01}}],
    },
}


def spec(fields: Mapping[str, Any]) -> ResolvedSpec:
    return resolve(Spec(**fields, batch_size=16), seed=5)


class Workshop:
    """Trains the jobs above on one source and dataset."""

    def __init__(self, source: Path, data: Path, folder: Path, recorder: Any) -> None:
        self.recorder = recorder
        self._source, self._data, self._folder = source, data, folder
        self._known: dict[str, Any] = {}

    def train(self, name: str, workdir: Path, reporter: Any) -> Any:
        from worker.engine.train import train

        return train(spec(JOBS[name]), self._source, self._data, workdir, reporter)

    def undisturbed(self, name: str) -> Any:
        """What a run gives that is left alone, and its reporter; each trained once."""
        if name not in self._known:
            reporter = self.recorder()
            self._known[name] = self.train(name, self._folder / name, reporter), reporter
        return self._known[name]

    def interrupt(self, name: str, workdir: Path, *, after: int) -> Any:
        """Train until the run has looked so often for a wish to stop; the reporter."""
        reporter = self.recorder(stop_after=after)
        with pytest.raises(TrainingStopped):
            self.train(name, workdir, reporter)
        return reporter


@pytest.fixture(scope="module")
def source(store_source: Callable[..., Path], build_mlp: Callable[..., Any]) -> Path:
    return store_source(build_mlp(), rescale="none")


@pytest.fixture(scope="module")
def data(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    x, y = blobs(classes=3, examples=120)
    return store_dataset(x=x, y=y)


@pytest.fixture(scope="module")
def workshop(source: Path, data: Path, recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(source, data, tmp_path_factory.mktemp("undisturbed"), recorder)


def without_times(report: Report) -> dict[str, Any]:
    told = report.model_dump(exclude={"seconds", "best_validation"})
    for phase in told["phases"]:
        for name in ("seconds", "cache"):  # times, and whether the features were made or found
            del phase[name]
    return told


def measured(history: Path) -> list[dict[str, Any]]:
    rows = json.loads(history.read_text())["epochs"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same(first: Any, second: Any) -> None:
    """The same model to the last bit, the same metrics, the same report but for the times."""
    assert first.info.digest == second.info.digest
    assert without_times(first.report) == without_times(second.report)
    assert measured(first.results / "history.json") == measured(second.results / "history.json")


def kept(workdir: Path) -> list[Path]:
    return sorted((workdir / "checkpoints").glob("resume-*"))


@pytest.fixture(scope="module")
def interrupted(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the checkpoints of step 3 and step 6."""
    folder = tmp_path_factory.mktemp("interrupted")
    for _ in range(2):
        workshop.interrupt("dropout, adam", folder, after=3)
    return folder


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short it is."""
    from worker.engine import checkpoint

    monkeypatch.setattr(checkpoint, "PATIENCE", 0)


# === Stopped ===


@pytest.mark.parametrize("name", JOBS)
def test_stopped_at_random_steps_it_ends_in_the_same_bits(name: str, workshop: Workshop, tmp_path: Path) -> None:
    whole, reporter = workshop.undisturbed(name)
    draw, stops, told = random.Random(name), 6, []  # noqa: S311 (reproducible, not secret)
    for _ in range(stops):
        after = draw.randrange(1, reporter.checks["training"] // stops)
        told += workshop.interrupt(name, tmp_path, after=after).progress
    last = workshop.recorder()
    result = workshop.train(name, tmp_path, last)
    told += last.progress
    assert_same(result, whole)
    epochs = [(each.phase.index, each.phase.epoch, each.step) for each in told if each.type == "epoch"]
    assert epochs == [(each.phase.index, each.phase.epoch, each.step) for each in reporter.of("epoch")]
    assert [each.fidelity for each in told if each.type == "resumed"] == ["exact"] * stops
    assert kept(tmp_path) == [], "there is nothing to go on with any more"


def test_stopped_after_every_single_step_it_ends_in_the_same_bits(workshop: Workshop, tmp_path: Path) -> None:
    whole, reporter = workshop.undisturbed("dropout, adam")
    for _ in range(reporter.of("epoch")[-1].step):
        workshop.interrupt("dropout, adam", tmp_path, after=1)
    assert_same(workshop.train("dropout, adam", tmp_path, workshop.recorder()), whole)


def test_a_stop_that_nobody_goes_on_from_writes_nothing(workshop: Workshop, tmp_path: Path) -> None:
    class Cancelling(workshop.recorder):  # type: ignore[misc, name-defined]  # a class that a fixture hands out
        def check(self) -> None:
            try:
                super().check()
            except TrainingStopped:
                raise TrainingStopped(keep=False) from None

    with pytest.raises(TrainingStopped):
        workshop.train("dropout, adam", tmp_path, Cancelling(stop_after=3))
    assert kept(tmp_path) == []


def test_a_run_that_may_take_no_longer_keeps_the_weights_of_its_very_step(workshop: Workshop, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    class Ending(workshop.recorder):  # type: ignore[misc, name-defined]  # a class that a fixture hands out
        def check(self) -> None:
            try:
                super().check()
            except TrainingStopped:
                raise TrainingStopped(over=True) from None

    name, over = "two phases, momentum", tmp_path / "over"
    reporter = Ending(stop_after=20)
    with pytest.raises(TrainingStopped):
        workshop.train(name, over, reporter)
    (told,) = reporter.of("weights_kept")
    workshop.interrupt(name, tmp_path, after=20)
    expected = load_file(kept(tmp_path)[-1] / "weights.safetensors")
    found = load_file(over / told.checkpoint)
    assert {key: found[key].tobytes() for key in expected} == {key: expected[key].tobytes() for key in expected}
    assert (told.which, told.metrics) == ("last", {})
    assert all(each.step < told.step for each in reporter.of("checkpoint")), "nobody will go on from here"
    with pytest.raises(TrainingStopped):
        workshop.train(name, tmp_path / "idle", nothing_done := Ending(stop_after=0))
    assert nothing_done.of("weights_kept") == [], "before its first step it has no weights of its own"


# === Killed: only what was written before is left ===


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.usefixtures("every_epoch")
def test_from_the_end_of_any_epoch_it_ends_in_the_same_bits(name: str, workshop: Workshop, tmp_path: Path) -> None:
    whole, _ = workshop.undisturbed(name)
    copies: list[Path] = []

    class Copying(workshop.recorder):  # type: ignore[misc, name-defined]  # a class that a fixture hands out
        def report(self, progress: Any) -> None:
            super().report(progress)
            if progress.type == "checkpoint":
                copies.append(tmp_path / f"copy-{len(copies)}")
                shutil.copytree(tmp_path / "first" / "checkpoints", copies[-1] / "checkpoints")

    workshop.train(name, tmp_path / "first", Copying())
    assert len(copies) == len(measured(whole.results / "history.json")), "one for each epoch, the last ones included"
    for copy in random.Random(name).sample(copies, 3):  # noqa: S311 (reproducible, not secret)
        assert_same(workshop.train(name, copy, workshop.recorder()), whole)


# === What is kept ===


@pytest.mark.usefixtures("every_epoch")
def test_the_last_two_are_kept_and_the_one_with_the_lowest_validation_loss(workshop: Workshop, tmp_path: Path) -> None:
    reporter = workshop.recorder()
    seen: list[set[int]] = []
    reporter.report = (
        lambda progress, report=reporter.report: (  # type: ignore[method-assign]
            report(progress),
            progress.type == "checkpoint" and seen.append({int(path.name[-6:]) for path in kept(tmp_path)}),
        )
    )
    workshop.train("early stopping, adam", tmp_path, reporter)
    losses = [each.metrics["val_loss"] for each in reporter.of("checkpoint")]
    for number in range(1, len(losses) + 1):
        alive = [other for other in range(1, number + 1) if other in seen[number - 1]]
        best = min(range(1, number + 1), key=lambda other: losses[other - 1])
        assert set(alive) == {number, max(1, number - 1), best}


def test_what_never_trained_so_far_is_not_in_a_checkpoint(workshop: Workshop, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    workshop.interrupt("two phases, momentum", tmp_path, after=3)
    head = set(load_file(kept(tmp_path)[-1] / "weights.safetensors"))
    workshop.interrupt("two phases, momentum", tmp_path, after=20)
    everything = set(load_file(kept(tmp_path)[-1] / "weights.safetensors"))
    assert head == {"output/0.kernel", "output/1.bias"}
    assert everything > head
    assert len(everything) == 6


def test_short_epochs_are_not_each_followed_by_a_checkpoint(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import checkpoint

    monkeypatch.setattr(checkpoint, "PATIENCE", 1e9)
    reporter = workshop.recorder()
    workshop.train("two phases, momentum", tmp_path, reporter)
    assert [each.phase.epoch for each in reporter.of("checkpoint")] == [1, 2, 2], "the first, and the ends of phases"


# === Damage ===


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize(
    "name", ["weights.safetensors", "random.safetensors", "optimizer.safetensors", "meta.json", "manifest.json"]
)
def test_whatever_is_damaged_is_noticed(how: str, name: str, interrupted: Path, tmp_path: Path) -> None:
    from worker.engine.checkpoint import Checkpoints, Meta

    shutil.copytree(interrupted, tmp_path / "run")
    before, newest = kept(tmp_path / "run")
    identity = Meta.model_validate_json((newest / "meta.json").read_bytes()).identity
    damage(newest / name, how)
    checkpoints = Checkpoints(tmp_path / "run", identity)
    found = checkpoints.newest()
    assert found is not None
    assert (found.meta.steps, before.name) == (3, "resume-000001")
    assert [refusal.name for refusal in checkpoints.refused] == [newest.name]


def test_from_the_one_before_a_damaged_one_it_ends_in_the_same_bits(
    interrupted: Path, workshop: Workshop, tmp_path: Path
) -> None:
    shutil.copytree(interrupted, tmp_path / "run")
    damage(kept(tmp_path / "run")[-1] / "optimizer.safetensors", "truncated")
    reporter = workshop.recorder()
    result = workshop.train("dropout, adam", tmp_path / "run", reporter)
    assert [each.step for each in reporter.of("resumed")] == [3]
    assert len(reporter.of("checkpoint_refused")) == 1
    assert_same(result, workshop.undisturbed("dropout, adam")[0])


def test_without_any_usable_checkpoint_it_begins_anew(workshop: Workshop, tmp_path: Path) -> None:
    workshop.interrupt("dropout, adam", tmp_path, after=3)
    damage(kept(tmp_path)[0] / "weights.safetensors", "flipped")
    reporter = workshop.recorder()
    assert_same(workshop.train("dropout, adam", tmp_path, reporter), workshop.undisturbed("dropout, adam")[0])
    assert reporter.of("resumed") == []
    assert len(reporter.of("checkpoint_refused")) == 1


def test_a_checkpoint_of_another_job_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    workshop.interrupt("two phases, momentum", tmp_path, after=3)
    reporter = workshop.recorder()
    assert_same(workshop.train("dropout, adam", tmp_path, reporter), workshop.undisturbed("dropout, adam")[0])
    assert "another job" in reporter.of("checkpoint_refused")[0].reason


def test_another_version_promises_no_more_than_nearly_the_same(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import runtime

    workshop.interrupt("dropout, adam", tmp_path, after=3)
    versions = {**runtime.versions(), "tensorflow": "9.9"}
    monkeypatch.setattr(runtime, "versions", lambda: versions)
    reporter = workshop.recorder()
    workshop.train("dropout, adam", tmp_path, reporter)
    (resumed,) = reporter.of("resumed")
    assert resumed.fidelity == "tolerance"
    assert [each.partition(" ")[0] for each in resumed.differences] == ["tensorflow"]


# === Real processes ===


class Command:
    """`python -m worker.engine job.json`, as often as it takes."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        (folder / "job.json").write_text(json.dumps({**job, "output": "out"}))

    def run(self, *, until: Callable[[], bool] | None = None, signal_number: int = 0) -> tuple[int, str]:
        """Run it to its end, or send it a signal as soon as `until` holds; exit code and what it printed."""
        with (self.folder / "log").open("w+") as log:
            command = [sys.executable, "-m", "worker.engine", str(self.folder / "job.json")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            while until and process.poll() is None and not until():
                time.sleep(0.005)
            if until:
                process.send_signal(signal_number)
            code = process.wait(200)
            log.seek(0)
            return code, log.read()

    def checkpoints(self) -> set[str]:
        return {path.name for path in kept(self.folder / "out")}

    def interrupt(self, signal_number: int) -> tuple[int, str]:
        """As soon as there is one checkpoint more."""
        before = self.checkpoints()
        return self.run(until=lambda: bool(self.checkpoints() - before), signal_number=signal_number)


def test_killed_processes_go_on_with_the_same_command_and_end_in_the_same_bits(
    source: Path, data: Path, workshop: Workshop, tmp_path: Path
) -> None:
    from worker.engine.train import train

    job = {"head": DROPOUT, "batch_size": 4, "schedule": [{"epochs": 60, "unfreeze": "all", "optimizer": ADAM}]}
    command = Command(tmp_path, {**job, "model": str(source), "training_file": str(data)})
    codes, told = zip(*map(command.interrupt, (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)), strict=True)
    assert codes == (-signal.SIGKILL, 143, -signal.SIGKILL), told
    code, last = command.run()
    assert code == 0, last
    (seed,) = {line for text in (*told, last) for line in text.splitlines() if line.startswith("seed ")}
    for text in (*told[1:], last):
        assert text.count("going on from step ") == 1
    whole = train(
        resolve(Spec(**job), seed=int(seed.split()[1])), source, data, tmp_path / "whole", workshop.recorder()
    )
    lineage = json.loads((tmp_path / "out" / "results" / "manifest.json").read_text())["lineage"]
    assert lineage["result"] == whole.info.digest
    assert measured(tmp_path / "out" / "results" / "history.json") == measured(whole.results / "history.json")
