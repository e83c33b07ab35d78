"""Whole runs on small data: what comes out, what is proved, how runs end."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.ancestry import Ancestor, Ancestry, FirstSource
from app.domain.errors import PlatformError, ProofError, UserError
from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import TrainingStopped

pytestmark = pytest.mark.tensorflow

HEAD_PHASE = {"name": "head", "unfreeze": "none", "epochs": 2, "optimizer": {"type": "sgd", "learning_rate": 0.1}}
ALL_PHASE = {"name": "all", "unfreeze": "all", "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.01}}


ANCESTRY = Ancestry(
    job="ftjob-3",
    retry_of=["ftjob-2"],
    ancestors=[
        Ancestor(
            job="ftjob-1", way="fork", checkpoint="ckpt-1", phase="head",
            weights_sha256="aa", model_digest="bb", dataset_digest="cc", spec_sha256="dd",
        ),
        Ancestor(job="ftjob-0", way="result", model_digest="ee", spec_sha256="ff"),
    ],
    first_source=FirstSource(model="model-0", name="shoes", origin="file-0", digest="00"),
)  # fmt: skip


def spec(*phases: dict[str, Any], seed: int = 42, **fields: Any) -> ResolvedSpec:
    return resolve(Spec(schedule=list(phases or (HEAD_PHASE, ALL_PHASE)), batch_size=16, **fields), seed=seed)


@pytest.fixture(scope="module")
def three_classes(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    x, y = blobs(classes=3, examples=120)
    return store_dataset(x=x, y=y)


@pytest.fixture(scope="module")
def numbers(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    x, _ = blobs(classes=2, examples=120)
    targets = np.stack([100 + 10 * x[:, 0], x[:, 1] - x[:, 2]], axis=1)
    return store_dataset({"task": "regression"}, x=x, y=targets.astype("float32"))


@pytest.fixture(scope="module")
def trained(source: Path, binary: Path, recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The textbook schedule on two classes, as a fork that is a retry, too, and what was reported meanwhile."""
    return run(spec(), source, binary, tmp_path_factory.mktemp("work"), recorder(), ancestry=ANCESTRY)


def run(spec: ResolvedSpec, source: Path, data: Path, workdir: Path, reporter: Any, **more: Any) -> tuple[Any, Any]:
    from worker.engine.train import train

    return train(spec, source, data, workdir, reporter, **more), reporter


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder)


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, value)
        yield


# === What comes out ===


def test_results_are_exactly_these_files_and_the_manifest_describes_the_others(trained: tuple[Any, Any]) -> None:
    folder = trained[0].results
    names = {
        "model.keras", "labels.json", "metrics.csv", "history.json", "events.out.tfevents.thaw", "report.json",
        "MODEL_CARD.md", "manifest.json",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {file["name"] for file in files} == names - {"manifest.json"}
    for file in files:
        content = (folder / file["name"]).read_bytes()
        assert (file["sha256"], file["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_lineage_leads_from_source_and_dataset_to_the_result(
    trained: tuple[Any, Any], source: Path, binary: Path
) -> None:
    result = trained[0]
    lineage = json.loads((result.results / "manifest.json").read_text())["lineage"]
    assert lineage["source"] == json.loads((source / "source.json").read_text())["digest"]
    assert lineage["dataset"] == json.loads((binary / "dataset.json").read_text())["digest"]
    assert lineage["spec"] == hashlib.sha256(result.report.spec.model_dump_json().encode()).hexdigest()
    assert lineage["result"] == result.info.digest


def test_the_jobs_that_it_comes_from_stand_in_report_manifest_and_card(trained: tuple[Any, Any]) -> None:
    folder = trained[0].results
    told = ANCESTRY.model_dump(mode="json")
    assert json.loads((folder / "report.json").read_text())["ancestry"] == told
    assert json.loads((folder / "manifest.json").read_text())["ancestry"] == told
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Made by job `ftjob-3`.\n\nIt did again what `ftjob-2` had been asked to do.\n" in card
    assert "| checkpoint `ckpt-1` (phase head) | `ftjob-1` | `aa` | `bb` | `cc` |\n" in card
    assert "| the result | `ftjob-0` | not known | `ee` | not known |\n" in card
    assert "The first source is model shoes `model-0`: from `file-0`, digest `00`." in card


def test_the_model_predicts_what_the_report_says(trained: tuple[Any, Any], binary: Path) -> None:
    import keras

    from worker.engine.data import open_dataset

    model = keras.saving.load_model(trained[0].results / "model.keras")
    test = open_dataset(binary).split("test")
    predicted = model.predict(np.stack([test.example(i) for i in range(len(test))]), verbose=0)[:, 0] > 0.5
    report = trained[0].report
    assert report.test.examples == len(test)
    assert report.test.accuracy.value == pytest.approx(np.mean(predicted == test.labels))
    assert report.test.accuracy.value > 0.8
    confusion = np.zeros((2, 2), int)
    for true, guess in zip(test.labels, predicted.astype(int), strict=True):
        confusion[true, guess] += 1
    assert report.test.confusion_matrix == confusion.tolist()
    assert json.loads((trained[0].results / "labels.json").read_text())["labels"] == ["hen", "duck"]


def test_history_has_one_row_for_each_epoch_in_all_three_places(trained: tuple[Any, Any]) -> None:
    result, reporter = trained
    with (result.results / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert " ".join(rows[0]) == "number phase epoch step loss accuracy val_loss val_accuracy learning_rate seconds"
    epochs = json.loads((result.results / "history.json").read_text())["epochs"]
    reported = reporter.of("epoch")
    assert len(rows) == len(epochs) == len(reported) == 4
    for row, epoch, event in zip(rows, epochs, reported, strict=True):
        assert {name: str(value) for name, value in epoch.items()} == row
        assert {name: epoch[name] for name in event.metrics} == event.metrics
    assert [(row["phase"], row["epoch"], row["step"]) for row in rows] == [
        ("head", "1", "6"),
        ("head", "2", "12"),
        ("all", "1", "18"),
        ("all", "2", "24"),
    ]
    assert [epoch["learning_rate"] for epoch in epochs] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_tensorboard_shows_the_epochs(trained: tuple[Any, Any]) -> None:
    import tensorflow as tf

    result, reporter = trained
    events = list(tf.compat.v1.train.summary_iterator(str(result.results / "events.out.tfevents.thaw")))[1:]
    shown = [{value.tag: value.simple_value for value in event.summary.value} for event in events]
    for scalars, told in zip(shown, reporter.of("epoch"), strict=True):
        assert scalars["loss/train"] == pytest.approx(told.metrics["loss"])
        assert scalars["accuracy/validation"] == pytest.approx(told.metrics["val_accuracy"])
        assert scalars["phase"] == told.phase.index


def test_a_later_run_in_the_folder_leaves_no_export_of_an_earlier_one(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "model.onnx").write_bytes(b"of an earlier run")
    result, _ = run(spec(HEAD_PHASE), source, binary, tmp_path, recorder())
    assert not (result.results / "model.onnx").exists()


def test_best_validation_is_the_epoch_with_the_lowest_validation_loss(trained: tuple[Any, Any]) -> None:
    result, reporter = trained
    assert result.report.best_validation in [epoch.metrics for epoch in reporter.of("epoch")]
    assert result.report.best_validation["val_loss"] == min(e.metrics["val_loss"] for e in reporter.of("epoch"))


def test_report_json_is_the_report(trained: tuple[Any, Any]) -> None:
    from app.domain.report import Report

    result = trained[0]
    assert Report.model_validate_json((result.results / "report.json").read_bytes()) == result.report
    assert result.report.cut_layer == "hidden_2"
    assert result.report.versions.keys() == {"thaw", "keras", "tensorflow", "numpy", "python"}
    stages = {"loading_source", "training", "evaluating", "exporting"}
    assert result.report.seconds.keys() == stages | {"until_first_step", "total"}
    assert sum(result.report.seconds[stage] for stage in stages) <= result.report.seconds["total"]


def test_progress_tells_stages_phases_and_epochs_in_order(trained: tuple[Any, Any]) -> None:
    told = [progress.type if progress.type != "stage" else progress.stage for progress in trained[1].progress]
    phase = ["phase_started", "epoch", "epoch", "phase_finished"]
    stages = ["loading_source", "training", *phase, *phase, "evaluating", "exporting"]
    assert [kind for kind in told if kind not in {"step", "checkpoint"}] == stages
    assert told[told.index("phase_started") + 1] == "step"  # the first step is told at once


def test_a_result_can_be_the_source_of_the_next_job(
    trained: tuple[Any, Any], three_classes: Path, recorder: Any, tmp_path: Path
) -> None:
    again, _ = run(spec(cut={"layer": "hidden_2"}), trained[0].canonical, three_classes, tmp_path, recorder())
    assert again.info.labels == ["0", "1", "2"]
    assert again.info.rescale == "none"
    assert again.report.source.model_digest_before == trained[0].info.digest


def test_single_label_has_a_softmax_over_the_classes(
    source: Path, three_classes: Path, recorder: Any, tmp_path: Path
) -> None:
    result, _ = run(spec(), source, three_classes, tmp_path, recorder())
    assert result.info.output_shape == [None, 3]
    assert np.sum(result.report.test.confusion_matrix) == result.report.test.examples
    assert result.report.test.accuracy.value > 0.6


def test_regression_is_measured_in_the_units_of_the_targets(
    source: Path, numbers: Path, recorder: Any, tmp_path: Path
) -> None:
    import keras

    from worker.engine.data import open_dataset

    phase = {**ALL_PHASE, "epochs": 10, "optimizer": {"type": "adam", "learning_rate": 0.1}}
    result, reporter = run(spec(phase), source, numbers, tmp_path, recorder())
    test = open_dataset(numbers).split("test")
    model = keras.saving.load_model(result.results / "model.keras")
    predicted = model.predict(np.stack([test.example(i) for i in range(len(test))]), verbose=0)
    error = result.report.test.mean_absolute_error
    assert error.value == pytest.approx(np.mean(np.abs(predicted - test.labels)), rel=1e-4)
    assert error.low < error.value < error.high
    assert {"loss", "mae", "val_loss", "val_mae"} < reporter.of("epoch")[0].metrics.keys()
    assert result.report.labels is None


# === What trains, and on what ===


def test_phase_one_moves_the_head_alone_and_phase_two_everything(trained: tuple[Any, Any], source: Path) -> None:
    before = weights(source / "weights.safetensors")
    workdir = trained[0].results.parent
    after_head = weights(workdir / "checkpoints" / "phase-01.safetensors")
    after_all = weights(workdir / "checkpoints" / "phase-02.safetensors")
    backbone = [name for name in before if name.startswith("hidden")]
    assert len(backbone) == 4
    for name in backbone:
        np.testing.assert_array_equal(before[name], after_head[name])
        assert not np.array_equal(before[name], after_all[name])


def test_proofs_count_every_weight(trained: tuple[Any, Any]) -> None:
    head, everything = trained[0].report.phases
    assert (head.proof.frozen_variables, head.proof.trained_variables, head.proof.moved_variables) == (4, 2, 2)
    assert head.proof.frozen_digest_before == head.proof.frozen_digest_after
    assert (everything.proof.frozen_variables, everything.proof.moved_variables) == (0, 6)
    assert (head.trainable_parameters, head.frozen_parameters) == (9, 6 * 8 + 8 + 8 * 8 + 8)


def test_every_example_counts_once_in_each_epoch_in_another_order_each_time(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    from worker.engine import phases

    seen: list[np.ndarray] = []
    step = phases.TrainStep.__call__

    def noting(self: Any, x: Any, y: Any) -> Any:
        seen.append(np.asarray(x))
        return step(self, x, y)

    with patched(phases.TrainStep, "__call__", noting):
        run(spec(), source, binary, tmp_path, recorder())
    from worker.engine.data import open_dataset

    train = open_dataset(binary).split("train")
    examples = np.stack([train.example(i) for i in range(len(train))])
    assert len(train) % 16 != 0
    steps = -(-len(train) // 16)
    epochs = [np.concatenate(seen[start : start + steps]) for start in range(0, 4 * steps, steps)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, examples.tolist()))
    assert len({epoch.tobytes() for epoch in epochs}) == 4


def test_the_test_split_is_predicted_once_and_after_all_training(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    from worker.engine.data import Split

    reporter, looks = recorder(), []
    examples = Split.examples

    def noting(self: Any, positions: Any) -> Any:
        if self.name == "test":
            looks.append((reporter.stage, len(positions)))
        return examples(self, positions)

    with patched(Split, "examples", noting):
        result, _ = run(spec(), source, binary, tmp_path, reporter)
    assert {stage for stage, _ in looks} == {"evaluating"}
    assert sum(count for _, count in looks) == result.report.test.examples


def test_early_stopping_goes_back_to_the_best_epoch(source: Path, binary: Path, recorder: Any, tmp_path: Path) -> None:
    wild = {"type": "sgd", "learning_rate": 3.0}
    phase = {**ALL_PHASE, "epochs": 30, "optimizer": wild, "early_stopping": {"patience": 2}}
    result, reporter = run(spec(phase), source, binary, tmp_path, recorder())
    losses = [epoch.metrics["val_loss"] for epoch in reporter.of("epoch")]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 30
    assert result.report.phases[0].stopped_early
    assert reporter.of("phase_finished")[0].stopped_early

    again = {**phase, "epochs": best + 1, "early_stopping": None}
    shorter, _ = run(spec(again), source, binary, tmp_path / "again", recorder())
    assert shorter.info.digest == result.info.digest


def test_random_weights_make_a_baseline_that_shares_nothing_with_the_source(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    result, _ = run(spec(HEAD_PHASE, backbone_weights="random"), source, binary, tmp_path, recorder())
    before, after = weights(source / "weights.safetensors"), weights(result.canonical / "weights.safetensors")
    kernels = [name for name in after if name.endswith("0.kernel") and name in before]
    assert len(kernels) == 2
    for name in kernels:
        assert before[name].shape == after[name].shape
        assert not np.isclose(before[name], after[name]).any()


# === Determinism ===


def test_the_same_job_gives_the_same_bits(
    trained: tuple[Any, Any], source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    again, reporter = run(spec(), source, binary, tmp_path, recorder())
    assert again.info.digest == trained[0].info.digest
    first = [{**epoch.metrics, "seconds": 0} for epoch in trained[1].of("epoch")]
    assert [{**epoch.metrics, "seconds": 0} for epoch in reporter.of("epoch")] == first


def test_another_seed_gives_other_weights(
    trained: tuple[Any, Any], source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    other, _ = run(spec(seed=43), source, binary, tmp_path, recorder())
    assert other.info.digest != trained[0].info.digest


def test_dropout_in_the_head_is_as_repeatable(source: Path, binary: Path, recorder: Any, tmp_path: Path) -> None:
    head = {"layers": [{"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 4}]}
    digests = {
        run(spec(HEAD_PHASE, head=head), source, binary, tmp_path / str(number), recorder())[0].info.digest
        for number in range(2)
    }
    assert len(digests) == 1


# === Sabotage: the proofs must notice ===


def test_a_layer_that_trains_although_it_should_be_frozen_fails_the_job(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    from worker.engine import schedule

    freeze = schedule.freeze

    def careless(network: Any, selection: Any) -> None:
        freeze(network, selection)
        network.model.get_layer("hidden_2").trainable = True

    with (
        patched(schedule, "freeze", careless),
        pytest.raises(ProofError, match=r"hidden_2/0\.kernel", check=lambda error: error.phase == "head"),
    ):
        run(spec(), source, binary, tmp_path, recorder())
    assert not (tmp_path / "results").exists()


def test_batch_norm_statistics_that_move_fail_the_job(
    store_source: Callable[..., Path], binary: Path, recorder: Any, tmp_path: Path
) -> None:
    import keras
    from keras import layers

    from worker.engine import schedule

    inputs = keras.Input((6,))
    tensor = layers.BatchNormalization(name="norm")(layers.Dense(4, name="dense")(inputs))
    source = store_source(keras.Model(inputs, layers.Dense(3, activation="softmax", name="old")(tensor)))
    freeze = schedule.freeze

    def careless(network: Any, selection: Any) -> None:
        freeze(network, selection)
        network.model.get_layer("norm").trainable = True
        for weight in network.model.get_layer("norm").trainable_weights:
            weight.trainable = False  # gamma and beta stay: only the statistics move

    with (
        patched(schedule, "freeze", careless),
        pytest.raises(
            ProofError, match=r"2 frozen variables moved in phase 'all': 'norm/2\.moving_mean', 'norm/3\.moving_v"
        ),
    ):
        run(spec(ALL_PHASE), source, binary, tmp_path, recorder())

    result, _ = run(spec(ALL_PHASE), source, binary, tmp_path / "held", recorder())
    assert result.report.phases[0].proof.frozen_variables == 4


def test_a_source_that_changed_while_the_job_ran_fails_it(
    store_source: Callable[..., Path], build_mlp: Callable[..., Any], binary: Path, recorder: Any, tmp_path: Path
) -> None:
    source = store_source(build_mlp())

    class Vandal(recorder):
        def report(self, progress: Any) -> None:
            if progress.type == "phase_finished":
                path = source / "weights.safetensors"
                content = bytearray(path.read_bytes())
                content[-1] ^= 1
                path.write_bytes(content)

    with pytest.raises(ProofError) as caught:
        run(spec(HEAD_PHASE), source, binary, tmp_path, Vandal())
    assert caught.value.failure().code == "source_changed"
    assert not (tmp_path / "results").exists()


# === How runs end ===


def test_cancel_stops_within_one_step(source: Path, binary: Path, recorder: Any, tmp_path: Path) -> None:
    from worker.engine import phases

    steps = []
    step = phases.TrainStep.__call__

    def noting(self: Any, x: Any, y: Any) -> Any:
        steps.append(len(x))
        return step(self, x, y)

    reporter = recorder(stop_after=3)
    with patched(phases.TrainStep, "__call__", noting), pytest.raises(TrainingStopped):
        run(spec(), source, binary, tmp_path, reporter)
    assert len(steps) == 3
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("stage", ["loading_source", "evaluating", "exporting"])
def test_cancel_is_seen_in_every_stage(stage: str, source: Path, binary: Path, recorder: Any, tmp_path: Path) -> None:
    reporter = recorder(stop_after=0, stop_in=stage)
    with pytest.raises(TrainingStopped):
        run(spec(HEAD_PHASE), source, binary, tmp_path, reporter)
    assert reporter.stage == stage
    assert not (tmp_path / "results" / "model.keras").exists()


def test_divergence_names_phase_epoch_step_and_what_to_try(
    source: Path, numbers: Path, recorder: Any, tmp_path: Path
) -> None:
    calm = {**HEAD_PHASE, "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-4}}
    wild = {**ALL_PHASE, "optimizer": {"type": "sgd", "learning_rate": 100.0}}
    with pytest.raises(UserError) as caught:
        run(spec(calm, wild), source, numbers, tmp_path, recorder())
    failure = caught.value.failure()
    assert (failure.error_class, failure.code, failure.phase) == ("user", "diverged", "all")
    for part in ("phase 'all', epoch 1, step ", "loss ", "val_mae ", "Try a smaller learning_rate"):
        assert part in failure.message
    assert not (tmp_path / "results").exists()


def test_a_phase_that_unfreezes_nothing_fails_before_any_phase_trains(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    reporter = recorder()
    with pytest.raises(UserError) as caught:
        run(spec(HEAD_PHASE, {**ALL_PHASE, "unfreeze": {"match": "nothing"}}), source, binary, tmp_path, reporter)
    assert (caught.value.failure().code, caught.value.failure().phase) == ("nothing_to_unfreeze", "all")
    assert reporter.of("phase_started") == []


def test_a_disk_without_room_fails_the_job_as_the_platforms_fault(
    source: Path, binary: Path, recorder: Any, tmp_path: Path
) -> None:
    from worker.engine import durable

    usage = durable.shutil.disk_usage(tmp_path)
    with (
        patched(durable.shutil, "disk_usage", lambda _: usage._replace(free=100)),
        pytest.raises(PlatformError) as caught,
    ):
        run(spec(HEAD_PHASE), source, binary, tmp_path, recorder())
    failure = caught.value.failure()
    assert (failure.error_class, failure.code, failure.phase) == ("platform", "storage_full", "head")
