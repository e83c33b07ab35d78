"""What exports cost in exactness: two jobs on real data, exported to every format, each file opened by its own runtime.

    KERAS_HOME=FOLDER/keras uv run python benchmarks/exports.py --data FOLDER

FOLDER has `models/mobilenet_025_224_imagenet.keras` and `trashnet.zip` (class folders); Fashion-MNIST comes from
where Keras keeps it. Training is short: a few epochs show differences as well as many. The
files are loaded and compared here anew, on 200 test examples, by nothing that the job itself used. JSON goes to
standard output.

trashnet        MobileNet 0.25 with ImageNet's weights, photos of any size, 6 classes
fashion-mnist   an MLP (300-100-50) that is trained from scratch on 10,000 pictures, 10 classes
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnxruntime import InferenceSession

from app.domain.dataset import DatasetOptions
from app.domain.exports import Export
from app.domain.model import ModelOptions
from app.domain.spec import Spec, resolve
from worker.engine import data, sources
from worker.engine.printing import PrintingReporter
from worker.engine.train import TrainedModel, train

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Array]
"""From a batch of one raw example to `(1, outputs)`."""

EXPORTS = ["saved_model", "litert", "litert_int8", "onnx"]
EXAMPLES = 200


def main() -> None:
    """Run both jobs and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the real data")
    parser.add_argument("--job", choices=list(JOBS), action="append", help="which; both if left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: measure(JOBS[name](asked.data.resolve(), Path(scratch) / name)) for name in asked.job or JOBS}
    print(json.dumps({"jobs": found, "machine": f"{os.cpu_count()} cores", "examples": EXAMPLES}, indent=2))


# === Jobs ===


def trashnet(folder: Path, workdir: Path) -> tuple[TrainedModel, Path]:
    """Photos."""
    workdir.mkdir()
    spec = Spec(
        cut={"layer": "conv_pw_13_relu"},
        head={"layers": [{"type": "global_average_pooling"}, {"type": "dropout", "rate": 0.3}]},
        schedule=[
            {"name": "head", "unfreeze": "none", "epochs": 5, "optimizer": {"type": "adam", "learning_rate": 0.003}},
            {"unfreeze": {"fraction": 0.2}, "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.0003}},
        ],
        preprocessing={"rescale": "minus_one_to_one"},
        exports=EXPORTS,
    )
    return run(spec, folder / "models" / "mobilenet_025_224_imagenet.keras", folder / "trashnet.zip", workdir)


def fashion_mnist(folder: Path, workdir: Path) -> tuple[TrainedModel, Path]:
    """Small gray pictures as arrays."""
    del folder  # Keras knows where
    workdir.mkdir()
    (x, y), _ = keras.datasets.fashion_mnist.load_data()
    np.savez(workdir / "fashion.npz", x=x[:10_000], y=y[:10_000])
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(units, activation="selu") for units in (300, 100, 50)]
    outputs = keras.layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *layers, outputs])
    model.save(workdir / "mlp.keras")
    schedule = [{"unfreeze": "all", "epochs": 5, "optimizer": {"type": "adam", "learning_rate": 0.001}}]
    return run(Spec(schedule=schedule, exports=EXPORTS), workdir / "mlp.keras", workdir / "fashion.npz", workdir)


JOBS = {"trashnet": trashnet, "fashion-mnist": fashion_mnist}


def run(spec: Spec, model: Path, examples: Path, workdir: Path) -> tuple[TrainedModel, Path]:
    """Register, validate, train, export."""
    sources.register(model, workdir / "source", options=ModelOptions(), max_parameters=10**9)
    data.validate(examples, workdir / "data", options=DatasetOptions(), max_unpacked_bytes=10**10)
    say = PrintingReporter(lambda line: print(line, file=sys.stderr))
    return train(resolve(spec, seed=42), workdir / "source", workdir / "data", workdir, say), workdir / "data"


# === Runtimes ===


def saved_model(path: Path) -> Predict:
    """TensorFlow's loader."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(path, folder)
        loaded = tf.saved_model.load(Path(folder) / "saved_model")
    return lambda example: loaded.serve(example)["predictions"].numpy()


def litert(path: Path) -> Predict:
    """The LiteRT interpreter."""
    ask = Interpreter(str(path)).get_signature_runner()
    return lambda example: np.array(ask(examples=example)["predictions"])


def onnx(path: Path) -> Predict:
    """The runtime of ONNX."""
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda example: session.run(["predictions"], {"examples": example})[0]


RUNTIMES = {"saved_model": saved_model, "litert": litert, "litert_int8": litert, "onnx": onnx}


def measure(trained: tuple[TrainedModel, Path]) -> dict[str, Any]:
    """What was found here, beside what the job's report tells."""
    job, dataset = trained
    test = data.open_dataset(dataset).split("test")
    model = keras.saving.load_model(job.results / "model.keras")
    accuracy = job.report.test.accuracy
    found = {export.format: compared(export, job.results, model, test) for export in job.report.exports}
    return {"test_accuracy": accuracy and accuracy.model_dump(), "exporting": job.report.seconds["exporting"], **found}


def compared(export: Export, results: Path, model: keras.Model, test: data.Split) -> dict[str, Any]:
    """One exported file beside `model.keras`."""
    if export.file is None:
        return {"failed": export.reason}
    predict = RUNTIMES[export.format](results / export.file)
    count = min(EXAMPLES, len(test))
    examples = [fitted(test.example(index)[None], export.inputs[0].shape) for index in range(count)]
    expected = np.concatenate([np.asarray(model(example, training=False)) for example in examples])
    started = time.perf_counter()
    received = np.concatenate([predict(example) for example in examples])
    return {
        "largest_difference": float(np.max(np.abs(expected - received))),
        "same_class": float(np.mean(expected.argmax(1) == received.argmax(1))),
        "accuracy": float(np.mean(received.argmax(1) == test.labels[:count])),
        "keras_accuracy": float(np.mean(expected.argmax(1) == test.labels[:count])),
        "milliseconds_each": 1000 * (time.perf_counter() - started) / count,
        "bytes": (results / export.file).stat().st_size,
        "difference_told_in_report": export.difference,
        "conversion_seconds": export.seconds,
    }


def fitted(example: Array, shape: list[int | None]) -> Array:
    """Photos in the size that the file takes, if it takes one only."""
    if example.ndim < 4 or None in shape[1:]:
        return example
    return np.rint(tf.image.resize(example, shape[1:3])).astype("uint8")


if __name__ == "__main__":
    main()
