"""Hostile HDF5 files, each built here. `check_hdf5` must refuse them without reading what they point at."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from app.domain.errors import SourceError
from worker.engine.intake.vet_hdf5 import check_hdf5


def _soft_link(file: h5py.File, _: Path) -> None:
    file["layers/dense/vars/0"] = h5py.SoftLink("/other")


def _external_link(file: h5py.File, secret: Path) -> None:
    file["layers/dense/vars/0"] = h5py.ExternalLink(str(secret), "/x")


def _external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("x", (4,), "u1", external=[(str(secret), 0, 4)])


def _virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    file.create_virtual_dataset("x", layout)


def _shape_bomb(file: h5py.File, _: Path) -> None:
    file.create_dataset("x", (2**20, 2**20), "f4", chunks=(1024, 1024))


def _contiguous_shape_bomb(file: h5py.File, _: Path) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((2**30,)), settings)


def _compression_bomb(file: h5py.File, _: Path) -> None:
    file.create_dataset("x", data=np.zeros(2**22, "f4"), compression="gzip", compression_opts=9)


def _object_twice(file: h5py.File, _: Path) -> None:
    file["x"] = np.zeros(3)
    file["y"] = file["x"]


def _loop(file: h5py.File, _: Path) -> None:
    group = file.create_group("a")
    group["b"] = group


def _named_type(file: h5py.File, _: Path) -> None:
    file["x"] = np.dtype("f8")


def _texts(file: h5py.File, _: Path) -> None:
    file["x"] = "text"


def _references(file: h5py.File, _: Path) -> None:
    file["x"] = np.zeros(3)
    file["y"] = file["x"].ref


def _reference_attribute(file: h5py.File, _: Path) -> None:
    file["x"] = np.zeros(3)
    file.attrs["a"] = file["x"].ref


def _deep(file: h5py.File, _: Path) -> None:
    file.create_group("/".join("g" * 100))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (_soft_link, "link to somewhere else"),
        (_external_link, "link to somewhere else"),
        (_external_storage, "in another file"),
        (_virtual, "in another file"),
        (_shape_bomb, "declares 4398046511104 bytes"),
        (_contiguous_shape_bomb, "declares 4294967296 bytes"),
        (_compression_bomb, "declares"),
        (_object_twice, "twice"),
        (_loop, "twice"),
        (_named_type, "neither a group nor an array"),
        (_texts, "are numbers"),
        (_references, "are numbers"),
        (_reference_attribute, "neither numbers nor text"),
        (_deep, "nested"),
    ],
)
def test_hostile_files_are_refused(build: Callable[[h5py.File, Path], None], said: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(4, dtype="u1")
    path = tmp_path / "upload.h5"
    with h5py.File(path, "w") as file:
        build(file, secret)
    with pytest.raises(SourceError, match=said) as caught:
        check_hdf5(path)
    assert caught.value.work_code == "unsafe_file"


def test_a_filter_that_names_a_plugin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload.h5"
    blosc = 32001
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((4,))
        settings.set_filter(blosc, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4,)), settings)
    with pytest.raises(SourceError, match=r"filters \[32001\]"):
        check_hdf5(path)


def test_what_keras_writes_passes(tmp_path: Path) -> None:
    path = tmp_path / "honest.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}" * 1000
        file.attrs["layer_names"] = [b"a", b"b"]
        file["layers/dense/vars/0"] = np.zeros((100, 300), "f4")
        file["layers/dense/vars/1"] = np.float32(3)
        file["packed"] = np.zeros(0)
        file.create_dataset("gzip", data=np.random.default_rng(0).random(10_000), compression="gzip", shuffle=True)
    check_hdf5(path)


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_that_broke_off_is_refused_as_damaged(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.arange(10_000, dtype="f4")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(SourceError, match="damaged") as caught:
        check_hdf5(path)
    assert caught.value.work_code == "corrupt_file"
