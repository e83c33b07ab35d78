"""Jobs on texts and token ids: vocabularies travel with the model, from the upload to the download."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.domain.cuts import DropLast
from app.domain.dataset import DatasetOptions
from app.domain.errors import DataError, SourceError
from app.domain.model import ModelOptions
from app.domain.optimizers import Adam
from app.domain.phases import Phase
from app.domain.spec import Preprocessing, ResolvedSpec
from worker.engine.data import validate

pytestmark = pytest.mark.tensorflow
REPOSITORY = Path(__file__).parents[3]
MIB = 2**20

PLAIN_LOAD = """
import sys
import keras, numpy, tensorflow as tf
model = keras.saving.load_model(sys.argv[1])
assert not any(name.partition(".")[0] in ("app", "worker", "thaw") for name in sys.modules)
predicted = model.predict(tf.constant(sys.argv[2:]), verbose=0)[:, 0]
print(" ".join(f"{value:.6f}" for value in predicted))
"""

KIND, UNKIND = ("please", "thanks", "lovely", "friend"), ("now", "idiot", "never", "stupid")


def messages(count: int = 160) -> list[tuple[str, str]]:
    """Kind and unkind messages, told by their words."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(count):
        words = random.choice(UNKIND if index % 2 else KIND, 3).tolist() + random.choice(["the", "a", "of"], 5).tolist()
        random.shuffle(words)
        rows.append((f"{' '.join(words).title()}, {index}!", "unkind" if index % 2 else "kind"))
    return rows


def text_source(*, shape: tuple[int, ...] = (), output_mode: str = "int") -> Any:
    """An untrained source with a vocabulary that it has learned from texts."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    options: dict[str, Any] = {"output_sequence_length": 8} if output_mode == "int" else {}
    vectorize = keras.layers.TextVectorization(max_tokens=40, output_mode=output_mode, name="words", **options)
    vectorize.adapt(tf.constant([text for text, _ in messages()]))
    features = (
        [keras.layers.Embedding(40, 8, name="embedding"), keras.layers.GlobalAveragePooling1D(name="mean")]
        if output_mode == "int"
        else []
    )
    top = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(3, name="old")]
    return keras.Sequential([keras.Input(shape, dtype="string"), vectorize, *features, *top], name="text_source")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    rows = "".join(f'"{text}",{label}\n' for text, label in messages())
    (folder / "texts.csv").write_text(f"text,label\n{rows}")
    validate(folder / "texts.csv", folder / "canonical", options=DatasetOptions(), max_unpacked_bytes=MIB)
    return folder / "canonical"


def register(model: Any, folder: Path) -> Path:
    from worker.engine import sources

    folder.mkdir(exist_ok=True)
    model.save(folder / "source.keras")
    sources.register(folder / "source.keras", folder / "canonical", options=ModelOptions(), max_parameters=10**6)
    return folder / "canonical"


def spec(*phases: Phase) -> ResolvedSpec:
    return ResolvedSpec(cut=DropLast(drop_last=1), schedule=list(phases), seed=3)


HEAD = Phase(name="head", unfreeze="none", epochs=10, optimizer=Adam(type="adam", learning_rate=0.05))
ALL = Phase(name="all", unfreeze="all", epochs=10, optimizer=Adam(type="adam", learning_rate=0.02))


@pytest.mark.parametrize(("shape", "output_mode"), [((), "int"), ((), "multi_hot"), ((1,), "int")])
def test_strings_train_and_the_download_takes_strings(
    shape: tuple[int, ...], output_mode: str, data: Path, recorder: type, tmp_path: Path
) -> None:
    from worker.engine import sources
    from worker.engine.train import train

    source = register(text_source(shape=shape, output_mode=output_mode), tmp_path / "source")
    info = sources.load(source).info
    assert (info.input_dtype, info.input_shape) == ("string", [None, *shape])
    assert {row.path: row.legal_cut for row in info.layers}["words"] is (output_mode == "multi_hot")
    trained = train(spec(HEAD, ALL), source, data, tmp_path / "run", recorder())
    assert trained.report.test.accuracy.value > 0.9
    assert trained.report.export_difference < 1e-6
    assert (trained.info.input_dtype, trained.info.input_shape) == ("string", [None, *shape])

    asked = ["thanks, lovely friend", "never! stupid idiot"]
    command = [sys.executable, "-c", PLAIN_LOAD, str(trained.results / "model.keras"), *asked]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    kind, unkind = map(float, plain.stdout.split())
    assert kind < 0.5 < unkind
    again = train(spec(HEAD), trained.canonical, data, tmp_path / "again", recorder())
    assert again.report.source.model_digest_before == trained.info.digest


def test_a_source_that_gives_another_shape_than_it_says_is_refused(tmp_path: Path) -> None:
    """Keras drops the axis of 1, and does not know it."""
    with pytest.raises(SourceError, match=r"build it on keras.Input\(\(\), dtype='string'\)"):
        register(text_source(shape=(1,), output_mode="multi_hot"), tmp_path)


def test_the_vocabulary_is_part_of_the_digest(tmp_path: Path) -> None:
    import keras

    from worker.engine import sources

    digests = set()
    for number, words in enumerate((["a", "b"], ["b", "a"], ["a", "c"])):
        keras.utils.set_random_seed(1)
        lookup = keras.layers.StringLookup(vocabulary=words, output_mode="multi_hot", name="words")
        model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Dense(2, name="top")])
        folder = register(model, tmp_path / str(number))
        digests.add(sources.load(folder).info.digest)
        assert words[1] in (folder / "config.json").read_text()
    assert len(digests) == 3


def test_texts_and_numbers_do_not_mix(
    *, data: Path, store_source: Callable[..., Path], store_dataset: Callable[..., Path], build_mlp: Any, blobs: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    from worker.engine.data import Preprocess, open_dataset
    from worker.engine.sources import load

    numbers, texts = load(store_source(build_mlp())).info, load(register(text_source(), tmp_path)).info
    with pytest.raises(DataError, match=r"takes numbers \(float32\); the dataset holds texts"):
        Preprocess.resolve(Preprocessing(), numbers, open_dataset(data).info)
    x, y = blobs(classes=2, examples=60)
    with pytest.raises(DataError, match=r"takes texts \(string\); the dataset holds numbers \(float32\)"):
        Preprocess.resolve(Preprocessing(), texts, open_dataset(store_dataset(x=x, y=y)).info)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_token_ids_reach_the_source_as_whole_numbers(
    dtype: str, store_source: Callable[..., Path], store_dataset: Callable[..., Path], recorder: type, tmp_path: Path
) -> None:
    """Ids beyond 2 ** 24, where float32 has lost the last digits."""
    import keras

    from worker.engine.train import train

    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), dtype=dtype)
    low = keras.ops.subtract(inputs, 2**24)  # told apart by their last digits only
    tensor = keras.layers.GlobalAveragePooling1D(name="mean")(keras.layers.Embedding(8, 4, name="embedding")(low))
    source = store_source(keras.Model(inputs, keras.layers.Dense(3, name="old")(tensor)))
    y = np.arange(120) % 2
    x = 2**24 + np.random.default_rng(0).integers(0, 4, (120, 4)) * 2 + y[:, None]
    trained = train(spec(ALL), source, store_dataset(x=x.astype("int64"), y=y), tmp_path, recorder())
    assert trained.report.test.accuracy.value == 1.0


def test_the_example_of_messages_runs_as_it_says(shared_data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    example = runpy.run_path(str(REPOSITORY / "examples" / "text_source.py"))
    example["main"](shared_data / "sms_spam.csv", tmp_path)
    job = yaml.safe_load((REPOSITORY / "examples" / "sms_spam.yaml").read_text()) | {"output": "out"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "worker.engine", "job.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "results" / "report.json").read_text())
    assert report["test"]["accuracy"]["value"] > 0.93  # always saying ham gives 0.87
    spam = "URGENT! You have won a 1000 cash prize. Call 09061701461 now to claim"
    command = [sys.executable, "-c", PLAIN_LOAD, str(tmp_path / "out" / "results" / "model.keras"), spam, "ok see you"]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = map(float, plain.stdout.split())
    assert second < 0.5 < first
