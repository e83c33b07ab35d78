"""Exports that fail do so by name: crashes, missing libraries, disagreement; and the wish to stop gets through."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.domain.errors import PlatformError
from app.domain.exports import Export, ExportFormat
from worker.engine.reporter import TrainingStopped

pytestmark = pytest.mark.tensorflow

FAKE = """
import json, os, signal, sys, time
order = json.load(open(sys.argv[1]))
for wanted in order["formats"]:
    if wanted == CRASHES_AT:
        os.kill(os.getpid(), signal.SIGSEGV)
    if wanted == HANGS_AT:
        open(os.path.join(WITNESS, "started"), "w").write(str(os.getpid()))
        time.sleep(600)
    if wanted == ENDED_AT:
        open(os.path.join(WITNESS, "asked"), "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
    file = {"saved_model": "saved_model.zip", "litert": "model.tflite", "onnx": "model.onnx"}[wanted]
    open(os.path.join(order["folder"], file), "w").write(f"{wanted} by {os.getpid()}")
    answer = {"format": wanted, "status": "succeeded", "file": file}
    open(os.path.join(order["folder"], wanted + ".json"), "w").write(json.dumps(answer))
"""


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Export]]:
    """Runs a converter that is as bad as we want it to be, in a real process."""
    from worker.engine.export import process

    def run(
        formats: list[ExportFormat], *, crashes_at: str = "", hangs_at: str = "", ended_at: str = "", reporter: Any
    ) -> list[Export]:
        package = tmp_path / "code" / "worker" / "engine" / "export"
        package.mkdir(parents=True)
        for folder in (package, package.parent, package.parent.parent):
            (folder / "__init__.py").touch()
        settings = f"CRASHES_AT, HANGS_AT, ENDED_AT = {crashes_at!r}, {hangs_at!r}, {ended_at!r}\n"
        settings += f"WITNESS = {str(tmp_path)!r}\n"
        (package / "__main__.py").write_text(settings + FAKE)
        monkeypatch.setattr(process, "_ROOT", tmp_path / "code")
        (tmp_path / "results").mkdir()
        return process.make_exports(
            formats,
            results=tmp_path / "results",
            model=tmp_path / "model.keras",
            names={},
            data=tmp_path,
            task="binary",
            image_size=None,
            seed=1,
            reporter=reporter,
        )

    return run


def test_a_converter_that_crashes_fails_its_export_and_no_other(
    convert: Callable[..., list[Export]], recorder: Any, tmp_path: Path
) -> None:
    exports = convert(["saved_model", "litert", "onnx"], crashes_at="litert", reporter=recorder())
    assert [(each.format, each.status, each.file) for each in exports] == [
        ("saved_model", "succeeded", "saved_model.zip"),
        ("litert", "failed", None),
        ("onnx", "succeeded", "model.onnx"),
    ]
    assert "SIGSEGV" in str(exports[1].reason)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"saved_model.zip", "model.onnx"}
    processes = {(tmp_path / "results" / name).read_text().split()[-1] for name in ("saved_model.zip", "model.onnx")}
    assert len(processes) == 2, "the rest is made by another process"
    assert {path.name for path in tmp_path.iterdir()} == {"code", "results"}, "nothing is left lying about"


def test_the_wish_to_stop_ends_the_converter_at_once(
    convert: Callable[..., list[Export]], recorder: Any, tmp_path: Path
) -> None:
    class Stopping(recorder):  # type: ignore[misc]  # a fixture is no type
        def check(self) -> None:
            if (tmp_path / "started").exists():
                raise TrainingStopped

    with pytest.raises(TrainingStopped):
        convert(["onnx"], hangs_at="onnx", reporter=Stopping())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)
    assert {path.name for path in tmp_path.iterdir()} == {"code", "results", "started"}


def test_a_stop_that_ends_the_converter_first_is_no_failed_export(
    convert: Callable[..., list[Export]], recorder: Any, tmp_path: Path
) -> None:
    """A service manager signals all processes at once, and the converter may not have come to ignore it."""

    class Stopping(recorder):  # type: ignore[misc]  # a fixture is no type
        def check(self) -> None:
            if (tmp_path / "asked").exists():
                raise TrainingStopped

    with pytest.raises(TrainingStopped):
        convert(["onnx"], ended_at="onnx", reporter=Stopping())


def test_a_converter_that_never_ends_fails_its_export(
    convert: Callable[..., list[Export]], recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine.export import process

    monkeypatch.setattr(process, "MAX_SECONDS_EACH", 1.0)
    [export] = convert(["onnx"], hangs_at="onnx", reporter=recorder())
    assert (export.format, export.status) == ("onnx", "failed")
    assert "SIGKILL" in str(export.reason)


def test_a_disk_that_is_full_while_an_export_is_made_is_no_failed_export(
    small_disk: Path, bench: Callable[..., Any], recorder: Any
) -> None:
    """With the real converting process: TensorFlow says in words only that there is no room."""
    from worker.engine.export.process import make_exports

    order = bench(network()).order
    results = small_disk / "results"
    results.mkdir()
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 16 * 1024))
    with pytest.raises(PlatformError, match="no space left on device while saved_model") as raised:
        make_exports(
            ["saved_model"],
            results=results,
            model=order.model,
            names={},
            data=order.data,
            task="binary",
            image_size=None,
            seed=1,
            reporter=recorder(),
        )
    assert raised.value.failure().code == "storage_full"
    assert {path.name for path in small_disk.rglob("*")} == {"results", "ballast"}


STARTER = """
import subprocess, sys
from pathlib import Path
from worker.engine.export.process import command_for
process = subprocess.Popen(command_for(Path(sys.argv[1])))
print(process.pid, flush=True)
process.wait()
"""


def test_a_converter_outlives_signals_to_all_and_dies_with_the_process_that_started_it(
    tmp_path: Path, eventually: Callable[..., float], gone: Callable[..., bool]
) -> None:
    order = tmp_path / "order.json"
    os.mkfifo(order)  # it reads and reads, and does not come to load TensorFlow

    command = [sys.executable, "-c", STARTER, str(order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        converter = psutil.Process(int(starter.stdout.readline()))
        writer: list[int] = []
        eventually(lambda: writer or writer.extend(opened(order)))
        for number in (signal.SIGTERM, signal.SIGINT):
            converter.send_signal(number)
        with pytest.raises(psutil.TimeoutExpired):
            converter.wait(0.3)
        starter.kill()
    try:
        eventually(lambda: gone([converter]), seconds=10)
    finally:
        if converter.is_running():
            converter.kill()
        os.close(*writer)


def opened(fifo: Path) -> list[int]:
    """A descriptor for writing, once somebody reads there."""
    try:
        return [os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)]
    except OSError:
        return []


def test_a_converter_whose_starter_died_before_it_could_tie_itself_to_it_ends() -> None:
    command = [sys.executable, "-m", "worker.engine.export", "/nowhere", "1"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


# === In the process ===


@pytest.fixture
def bench(tmp_path: Path, store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Callable[..., Any]:
    """A bench for a given model on two classes of points."""
    from worker.engine.export.converting import Bench
    from worker.engine.export.order import Order

    def make(model: Any) -> Any:
        x, y = blobs(classes=2, examples=120)
        data = store_dataset(x=x, y=y)
        model.save(tmp_path / "model.keras")
        (tmp_path / "made").mkdir()
        return Bench(
            Order(
                formats=["onnx"],
                model=tmp_path / "model.keras",
                names={},
                data=data,
                task="binary",
                image_size=None,
                seed=1,
                folder=tmp_path / "made",
            )
        )

    return make


def network(*, features: int | None = 6, dtype: str = "float32") -> Any:
    import keras

    keras.utils.set_random_seed(2)
    inputs = keras.Input((features,), name="points", dtype=dtype)
    tensor = inputs if features else keras.layers.Reshape((6,))(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(tensor))


def test_a_file_that_predicts_something_else_fails_and_is_not_kept(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine.export.converting import make
    from worker.engine.export.onnx import Onnx

    honest = Onnx.predict
    monkeypatch.setattr(Onnx, "predict", lambda self, path, batches: honest(self, path, batches) + 0.01)
    export = make(bench(network()), "onnx")
    assert (export.format, export.status, export.file) == ("onnx", "failed", None)
    assert "differ from those of model.keras by up to 0.01" in str(export.reason)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_missing_library_fails_the_export_and_says_what_to_install(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine.export.converting import make

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export = make(bench(network()), "onnx")
    assert export.status == "failed"
    assert "no 'onnxruntime'" in str(export.reason)
    assert "pip install 'thaw[export]'" in str(export.reason)


def test_an_open_axis_is_refused_for_litert_by_name(bench: Callable[..., Any]) -> None:
    from worker.engine.export.converting import make

    export = make(bench(network(features=None)), "litert")
    assert export.status == "failed"
    assert "'points' is open: [None, None]" in str(export.reason)


def test_representative_examples_are_of_the_training_split_and_follow_the_seed(bench: Callable[..., Any]) -> None:
    from worker.engine.data import open_dataset
    from worker.engine.export.converting import Bench
    from worker.engine.export.inputs import inputs_of

    first = bench(network())
    again, other = (Bench(first.order.model_copy(update={"seed": seed})) for seed in (1, 2))
    taken = [
        [batch[0].tobytes() for batch in each.representative(inputs_of(first.model))] for each in (first, again, other)
    ]
    train = open_dataset(first.order.data).split("train")
    assert set(taken[0]) == {train.example(index)[None].tobytes() for index in range(len(train))}
    assert taken[0] == taken[1] != taken[2]


def test_representative_examples_are_bounded(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engine.export import converting
    from worker.engine.export.inputs import inputs_of

    ready = bench(network())
    monkeypatch.setattr(converting, "REPRESENTATIVE_BYTES", 3 * 6 * 4)
    assert len(list(ready.representative(inputs_of(ready.model)))) == 3
    monkeypatch.setattr(converting, "REPRESENTATIVE_BYTES", 1)
    assert len(list(ready.representative(inputs_of(ready.model)))) == 1


class Rows:
    """A split of named values, as tables have."""

    def __init__(self) -> None:
        self.labels = (np.arange(20) % 2).astype("int32")

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng(index)
        return {
            "word": np.array([[("hen", "duck")[index % 2]]], object),
            "age": random.normal(size=(1, 1)).astype("float32"),
            "colour": random.normal(size=(1, 3)).astype("float32"),
        }


def test_named_inputs_go_into_every_format_and_text_not_into_onnx(bench: Callable[..., Any]) -> None:
    import keras
    from keras import layers

    from worker.engine.export.converting import make

    inputs = {
        "word": keras.Input((1,), name="word", dtype="string"),
        "age": keras.Input((1,), name="age"),
        "colour": keras.Input((3,), name="colour"),
    }
    word = layers.StringLookup(vocabulary=["hen", "duck"], output_mode="one_hot")(inputs["word"])
    tensor = layers.Concatenate()([word, inputs["age"], inputs["colour"]])
    ready = bench(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(tensor)))
    ready.__dict__["_splits"] = {"train": Rows(), "test": Rows()}
    saved, lite, onnx = (make(ready, wanted) for wanted in ("saved_model", "litert", "onnx"))
    assert (saved.status, lite.status) == ("succeeded", "succeeded"), (saved.reason, lite.reason)
    assert saved.difference < 1e-5
    assert lite.difference < 1e-5
    assert {(each.name, each.dtype) for each in lite.inputs} == {
        ("word", "string"),
        ("age", "float32"),
        ("colour", "float32"),
    }
    assert onnx.status == "failed"
    assert "takes text (word)" in str(onnx.reason)


def test_constants_that_the_model_holds_go_into_onnx(bench: Callable[..., Any]) -> None:
    """The mean and variance of a Normalization are no variables; tf2onnx alone would make inputs of them."""
    import keras
    import onnx
    from keras import layers

    from worker.engine.export.converting import make

    inputs = keras.Input((6,), name="examples")
    scaled = layers.Normalization(mean=list(range(6)), variance=list(range(1, 7)))(inputs)
    ready = bench(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(scaled)))
    made = make(ready, "onnx")
    assert made.status == "succeeded", made.reason
    assert made.difference is not None
    assert made.difference < 1e-5
    written = onnx.load(ready.order.file("onnx"))
    assert [each.name for each in written.graph.input] == ["examples"]


def test_what_litert_has_no_operator_for_is_named(bench: Callable[..., Any]) -> None:
    import keras
    from keras import layers

    from worker.engine.export.converting import make

    inputs = keras.Input((), name="text", dtype="string")
    words = layers.TextVectorization(vocabulary=["hen", "duck"], output_sequence_length=4)(inputs)
    tensor = layers.Flatten()(layers.Embedding(4, 2)(words))
    ready = bench(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(tensor)))
    made = make(ready, "litert")
    assert made.status == "failed"
    assert "LiteRT has no operator for what the model computes with TensorFlow's " in str(made.reason)
    assert "StringLower" in str(made.reason)
    assert "Ask for 'saved_model' instead." in str(made.reason)


def test_an_answer_survives_the_way_through_its_file(bench: Callable[..., Any]) -> None:
    order = bench(network()).order
    export = Export(format="onnx", status="failed", reason="no")
    order.answer(export)
    assert order.answered("onnx") == export
    assert order.answered("litert") is None
    assert json.loads(order.write().read_text())["formats"] == ["onnx"]
