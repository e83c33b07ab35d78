"""Each exported file, opened by its own runtime as a stranger would, predicts what `model.keras` predicts."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.worker.engine.export.conftest import PictureJob

pytestmark = pytest.mark.tensorflow

SIZE = (12, 10)


def raw(job: "PictureJob") -> list[np.ndarray]:
    return [job.test.example(index) for index in range(len(job.test))]


def of_one_size(job: "PictureJob") -> list[np.ndarray]:
    """As whoever prepares pictures for a device would: resized, in 8 bits."""
    import tensorflow as tf

    return [np.rint(np.asarray(tf.image.resize(picture, SIZE))).astype("uint8") for picture in raw(job)]


def export(job: "PictureJob", wanted: str) -> dict[str, object]:
    found = [each for each in job.trained.report.exports if each.format == wanted]
    assert len(found) == 1
    assert found[0].status == "succeeded", found[0].reason
    return dict(found[0].model_dump())


def test_the_savedmodel_takes_pictures_of_any_size(job: "PictureJob", tmp_path: Path) -> None:
    import tensorflow as tf

    shutil.unpack_archive(job.results / "saved_model.zip", tmp_path)
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    received = np.concatenate([loaded.serve(picture[None])["predictions"].numpy() for picture in raw(job)])
    difference = np.max(np.abs(received - job.expected(raw(job))))
    assert difference < 1e-5
    told = export(job, "saved_model")
    assert told["inputs"] == [{"name": "examples", "shape": [None, None, None, 3], "dtype": "uint8"}]
    assert told["difference"] == pytest.approx(difference, abs=1e-6)


def test_onnx_takes_pictures_of_any_size(job: "PictureJob") -> None:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(job.results / "model.onnx", providers=["CPUExecutionProvider"])
    received = np.concatenate([session.run(["predictions"], {"examples": picture[None]})[0] for picture in raw(job)])
    difference = np.max(np.abs(received - job.expected(raw(job))))
    assert difference < 1e-4
    told = export(job, "onnx")
    assert told["difference"] == pytest.approx(difference, abs=1e-6)
    assert told["examples"] == len(raw(job)) >= 16
    opsets = {each.domain: each.version for each in onnx.load(job.results / "model.onnx").opset_import}
    assert opsets[""] == told["opset"] == 18


def test_litert_takes_8_bit_pictures_of_the_trained_size(job: "PictureJob") -> None:
    from ai_edge_litert.interpreter import Interpreter

    ask = Interpreter(str(job.results / "model.tflite")).get_signature_runner("serving_default")
    received = np.concatenate([ask(examples=picture[None])["predictions"] for picture in of_one_size(job)])
    difference = np.max(np.abs(received - job.expected(of_one_size(job))))
    assert difference < 1e-4
    told = export(job, "litert")
    assert told["inputs"] == [{"name": "examples", "shape": [1, *SIZE, 3], "dtype": "uint8"}]
    assert told["difference"] == pytest.approx(difference, abs=1e-6)


def test_litert_int8_computes_in_8_bits_and_gives_the_same_answers(job: "PictureJob") -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = str(job.results / "model_int8.tflite")
    plain = Interpreter(model, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    plain.allocate_tensors()
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in plain.get_tensor_details()}
    outputs = {op["op_name"]: types[op["outputs"][0]] for op in plain._get_ops_details()}
    assert {name for name, kind in outputs.items() if kind == "float32"} == {"CAST", "DEQUANTIZE"}
    assert outputs["CONV_2D"] == outputs["FULLY_CONNECTED"] == "int8"

    ask = plain.get_signature_runner("serving_default")
    received = np.concatenate([ask(examples=picture[None])["predictions"] for picture in of_one_size(job)])
    expected = job.expected(of_one_size(job))
    agreement = np.mean(received.argmax(1) == expected.argmax(1))
    told = export(job, "litert_int8")
    assert told["agreement"] == pytest.approx(agreement, abs=1 / len(expected))
    assert told["accuracy"] == pytest.approx(np.mean(received.argmax(1) == job.test.labels), abs=1 / len(expected))
    assert told["keras_accuracy"] == pytest.approx(np.mean(expected.argmax(1) == job.test.labels))
    assert told["tolerance"] is None
    assert 0 < np.max(np.abs(received - expected)) < 0.2, "8 bits are not the same, but near"


def test_the_manifest_describes_every_file(job: "PictureJob") -> None:
    files = {each["name"]: each for each in json.loads((job.results / "manifest.json").read_text())["files"]}
    assert {path.name for path in job.results.iterdir()} == {*files, "manifest.json"}
    assert {"saved_model.zip", "model.tflite", "model_int8.tflite", "model.onnx"} < files.keys()
    for name, told in files.items():
        content = (job.results / name).read_bytes()
        assert (told["sha256"], told["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_nothing_but_the_results_is_left(job: "PictureJob") -> None:
    assert {path.name for path in job.workdir.iterdir()} == {"results", "canonical", "checkpoints"}


def test_the_trained_pictures_are_told_apart(job: "PictureJob") -> None:
    """So that agreement says something."""
    assert job.trained.report.test.accuracy.value > 0.8


def test_a_result_with_resizing_inside_can_be_a_source_again(job: "PictureJob", recorder: type, tmp_path: Path) -> None:
    from app.domain.spec import Spec, resolve
    from worker.engine.train import train

    spec = resolve(Spec(schedule=[{"name": "head", "epochs": 1}]), seed=1)
    again = train(spec, job.trained.canonical, job.data, tmp_path, recorder())
    assert again.report.export_difference < 1e-4
    assert again.report.exports == []
