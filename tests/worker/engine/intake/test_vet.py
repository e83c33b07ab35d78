"""What an uploaded file is found to be. Everything here runs without Keras."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import SourceError
from worker.engine.intake.vet import vet

Write = Callable[..., Path]


def refusal(path: Path, tmp_path: Path) -> SourceError:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(SourceError) as caught:
        vet(path, scratch)
    return caught.value


def test_vetting_loads_neither_keras_nor_tensorflow(keras_file: Write, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from worker.engine.intake.vet import vet;"
        f"print(vet(pathlib.Path({str(keras_file())!r}), pathlib.Path({str(tmp_path)!r})).format);"
        "print(sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["keras", "[]"]


def test_the_name_of_a_file_plays_no_part(keras_file: Write, h5_file: Write, build: Any, tmp_path: Path) -> None:
    archive = keras_file(name="model.h5")
    assert vet(archive, tmp_path).format == "keras"
    whole = h5_file(build.mlp(), {}).rename(tmp_path / "model.keras")
    assert vet(whole, tmp_path).format == "h5"


def test_the_version_that_wrote_the_file_is_told(keras_file: Write, h5_file: Write, build: Any, tmp_path: Path) -> None:
    assert vet(keras_file(version="3.9.0"), tmp_path).keras_version == "3.9.0"
    assert vet(h5_file(build.mlp(), {}, version="2.4.0"), tmp_path).keras_version == "2.4.0"


SAVED_MODEL = b"\x08\x01\x12\xf0\x812\n\xce\x04"


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.keras"))
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "not_a_model", "empty"),
        (SAVED_MODEL, "unsupported_format", "SavedModel"),
        (_zip(my_model__saved_model_dot_pb=SAVED_MODEL), "unsupported_format", "SavedModel"),
        (pickle.dumps({"a": 1}, protocol=2), "unsupported_format", "pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "unsupported_format", "pickle"),
        (_zip(archive__data_dot_pkl=b"\x80\x02."), "unsupported_format", "PyTorch"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "unsupported_format", "LiteRT"),
        (b"GGUF\x03\x00\x00\x00", "unsupported_format", "GGUF"),
        ((62).to_bytes(8, "little") + b'{"__metadata__":{}}', "unsupported_format", "safetensors"),
        (_tar(), "unsupported_format", "tar archive"),
        (b"\x1f\x8b\x08\x00", "unsupported_format", "gzip"),
        (_npz(), "not_a_model", "npz"),
        (b'{"class_name": "Sequential"}', "unsupported_format", "JSON"),
        (b"<!DOCTYPE html>", "unsupported_format", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "unsupported_format", "Git LFS"),
        (b"\x89PNG\r\n\x1a\n", "unsupported_format", "picture"),
        (_zip(my__model_dot_keras=b"x"), "not_a_model", "Unpack it and upload 'my/model.keras'"),
        (_zip(readme_dot_txt=b"x"), "not_a_model", "zip archive without config.json"),
        (b"hello, world", "not_a_model", "68 65 6c 6c 6f"),
        (b"PK\x03\x04 and then nonsense", "corrupt_file", "damaged"),
        (b"\x89HDF\r\n\x1a\n and then nonsense", "corrupt_file", "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_keras_model_is_named_and_the_way_out_told(
    content: bytes, code: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    error = refusal(path, tmp_path)
    assert error.work_code == code
    assert said in error.message
    assert error.error_class == "user"


def test_a_saved_model_folder_is_refused_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "kws"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(SAVED_MODEL)
    assert "model.save('model.keras')" in refusal(folder, tmp_path).message


def test_weights_without_an_architecture_are_refused_as_such(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    path.write_bytes(build.weights_file(build.MLP_WEIGHTS))
    assert "weights without the model's architecture" in refusal(path, tmp_path).message


def test_an_hdf5_file_of_something_else_is_refused(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    path.write_bytes(build.weights_file({"measurements": np.zeros(3)}))
    assert "no Keras model" in refusal(path, tmp_path).message


def test_the_training_state_in_a_file_is_neither_checked_nor_kept(
    keras_file: Write, build: Any, tmp_path: Path
) -> None:
    config = build.mlp() | {"compile_config": {"loss": {"module": "mine", "class_name": "MyLoss", "config": {}}}}
    assert "compile_config" not in json.dumps(vet(keras_file(config), tmp_path).config)
