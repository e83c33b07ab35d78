"""The model card: the report's figures and no others, words that stay words, and code that runs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.dataset import DatasetInfo
from app.domain.exports import Export, ExportedInput
from app.domain.report import Report

if TYPE_CHECKING:
    from tests.worker.engine.export.conftest import PictureJob

pytestmark = pytest.mark.tensorflow

RUN = """
import contextlib, io, json, sys
said = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    said.append(out.getvalue())
print(json.dumps(said))
"""


@pytest.fixture
def card(job: "PictureJob") -> str:
    return (job.results / "MODEL_CARD.md").read_text()


def written(report: Report, data: DatasetInfo) -> str:
    from worker.engine import model_card

    return model_card.card(report, data, lineage={}, files=[])


def stored(job: "PictureJob") -> DatasetInfo:
    return DatasetInfo.model_validate_json((job.data / "dataset.json").read_bytes())


def test_every_snippet_runs_and_gives_what_the_model_gives(job: "PictureJob", card: str, tmp_path: Path) -> None:
    import keras

    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 1 + 4
    for path in job.results.iterdir():
        (tmp_path / path.name).symlink_to(path)
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(snippets),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [
        [float(number) for number in re.findall(r"\d\.[\de+-]+", text.split("\x1b")[-1].split("[[")[-1])]
        for text in json.loads(ran.stdout.splitlines()[-1])
    ]
    model = keras.saving.load_model(job.results / "model.keras")
    expected = np.asarray(model(np.zeros((1, 12, 10, 3), "uint8"), training=False))[0]
    for numbers, tolerance in zip(said, (1e-4, 1e-4, 1e-4, 0.2, 1e-4), strict=True):
        np.testing.assert_allclose(numbers, expected, atol=tolerance)


def test_the_figures_are_the_reports(job: "PictureJob", card: str) -> None:
    report = job.trained.report
    accuracy = report.test.accuracy
    assert f"| accuracy | {accuracy.value:.4g} | {accuracy.low:.4g} to {accuracy.high:.4g} | wilson |" in card
    assert f"On {report.test.examples} examples" in card
    for label, row in zip(report.labels, report.test.confusion_matrix, strict=True):
        assert f"| {label} | {row[0]} | {row[1]} | {row[2]} |" in card
        figures = report.test.per_class[label]
        assert f"| {label} | {figures['precision']:.3f} | {figures['recall']:.3f} |" in card
    for phase, wish in zip(report.phases, report.spec.schedule, strict=True):
        assert f"| {phase.name} | {wish.unfreeze} | {phase.epochs_run} of {wish.epochs} | adam |" in card
    for export in report.exports:
        assert f"| {export.format} | {export.file} | {export.examples} | {export.difference:.2g} |" in card


def test_digests_of_lineage_and_files_stand_in_it(job: "PictureJob", card: str) -> None:
    manifest = json.loads((job.results / "manifest.json").read_text())
    for name, digest in manifest["lineage"].items():
        assert f"| {name} | `{digest}` |" in card
    models = [each for each in manifest["files"] if "inputs" in each]
    assert [each["name"] for each in models] == [
        "model.keras", "saved_model.zip", "model.tflite", "model_int8.tflite", "model.onnx",
    ]  # fmt: skip
    for each in models:
        assert f"| {each['name']} | {each['bytes']:,} | `{each['sha256']}` |" in card
    assert models[0]["inputs"] == models[1]["inputs"] != models[2]["inputs"]


def test_what_makes_the_figures_doubtful_is_said(job: "PictureJob", card: str) -> None:
    assert "Fewer than 30 test examples, so hardly a measure: blue, green, red." in card
    assert "stand in more than one split" not in card
    doubled = written(job.trained.report, stored(job).model_copy(update={"duplicates_across_splits": 7}))
    assert "7 examples stand in more than one split; the figures may be too good." in doubled


def test_names_of_classes_cannot_break_out_of_their_cell(job: "PictureJob") -> None:
    hostile = "<img src=x>|`\n# red"
    per_class = {hostile: next(iter(job.trained.report.test.per_class.values()))}
    test = job.trained.report.test.model_copy(update={"per_class": per_class})
    text = written(job.trained.report.model_copy(update={"test": test}), stored(job))
    assert "\n# red" not in text
    assert r"| \<img src=x\>\|\` \# red |" in text


def test_an_export_that_failed_says_why_and_has_no_code(job: "PictureJob") -> None:
    failed = Export(format="onnx", status="failed", reason="It differs.")
    text = written(job.trained.report.model_copy(update={"exports": [failed]}), stored(job))
    assert "| onnx | failed |" in text
    assert "`onnx` failed: It differs." in text
    assert "import onnxruntime" not in text


def test_several_inputs_and_text_are_given_by_name() -> None:
    from worker.engine import loading

    inputs = [
        ExportedInput(name="age", shape=[None, 1], dtype="float32"),
        ExportedInput(name="word", shape=[None, 1], dtype="string"),
    ]
    assert "{'age': np.zeros((1, 1), \"float32\"), 'word': tf.constant([[\"some text\"]])}" in loading.keras(inputs)
    lite = loading.of(Export(format="litert", status="succeeded", file="model.tflite", inputs=inputs))
    assert '"word": np.array([["some text"]], dtype=object)' in lite


def test_a_card_of_a_regression_has_its_error_and_no_classes(job: "PictureJob") -> None:
    from app.domain.report import Evaluation, Interval

    error = Interval(value=1.25, low=1.0, high=1.5, method="bootstrap")
    report = job.trained.report.model_copy(
        update={
            "task": "regression",
            "labels": None,
            "exports": [],
            "test": Evaluation(examples=40, loss=2.5, mean_absolute_error=error),
        }
    )
    data = stored(job).model_copy(update={"classes": None})
    text = written(report, data)
    assert "| mean absolute error | 1.25 | 1 to 1.5 | bootstrap |" in text
    assert "It predicts numbers." in text
    assert "None were asked for." in text
