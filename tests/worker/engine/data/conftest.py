"""Archives and arrays built at run time, hostile ones too."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from app.domain.dataset import DatasetInfo, DatasetOptions, PreviewExample
from worker.engine.data.validate import validate

Members = Mapping[str, bytes]
Build = Callable[[Members], Path]
Picture = Callable[..., bytes]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Makes an image file that differs for each `seed`."""

    def make(seed: int = 0, *, size: tuple[int, int] = (12, 9), mode: str = "RGB", kind: str = "PNG") -> bytes:
        rng = np.random.default_rng(seed)
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def make_zip(tmp_path: Path) -> Build:
    """Packs files, by name, into a zip."""

    def build(members: Members) -> Path:
        path = tmp_path / "upload.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    return build


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """Packs files, by name, into a tar.gz (or tar); a name that ends with `/` becomes a folder."""

    def build(members: Members, *, mode: str = "w:gz") -> Path:
        path = tmp_path / "upload.tar.gz"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # the mode is a variable here
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return build


@pytest.fixture
def make_npz(tmp_path: Path) -> Callable[..., Path]:
    """Saves arrays by name."""

    def build(**arrays: Any) -> Path:
        path = tmp_path / "upload.npz"
        np.savez(path, **arrays)
        return path

    return build


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[DatasetInfo, list[PreviewExample], Path]]:
    """Validates an upload; gives what was found, the preview and the canonical folder."""

    def run(
        path: Path, *, max_unpacked_bytes: int = 2**30, name: str = "dataset", **options: Any
    ) -> tuple[DatasetInfo, list[PreviewExample], Path]:
        folder = tmp_path / name
        info, preview = validate(path, folder, options=DatasetOptions(**options), max_unpacked_bytes=max_unpacked_bytes)
        return info, preview, folder

    return run


@pytest.fixture
def two_classes(picture: Picture) -> dict[str, bytes]:
    """Twenty images in each of two class folders."""
    return {
        f"{name}/{index}.png": picture(100 * (name == "dog") + index) for name in ("cat", "dog") for index in range(20)
    }


@pytest.fixture
def make_csv(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CSV file: a text or bytes as they are, or rows under names."""

    def build(content: str | bytes, *rows: Any, name: str = "upload.csv") -> Path:
        path = tmp_path / name
        if rows:
            lines = (",".join(map(str, row)) for row in rows)
            content = "\n".join([str(content), *lines]) + "\n"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return build


@pytest.fixture
def make_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Parquet file of columns by name."""

    def build(columns: Mapping[str, Any]) -> Path:
        path = tmp_path / "upload.parquet"
        parquet.write_table(pa.table(dict(columns)), path)
        return path

    return build
