import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.parametrize(
    "name",
    ["../../escaped.txt", "/tmp/escaped.txt", "..\\escaped.txt", "assets/vocabulary.txt", "model.weights.json", "x.py"],  # noqa: S108 (a hostile name)
)
def test_members_that_keras_models_do_not_have_are_refused_by_name(
    name: str, keras_file: Write, tmp_path: Path
) -> None:
    error = refusal(keras_file(more={name: b"x"}), tmp_path)
    assert error.work_code == "unsafe_file"
    assert name in error.message
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_an_empty_folder_for_assets_is_harmless(keras_file: Write, tmp_path: Path) -> None:
    assert vet(keras_file(more={"assets/": b""}), tmp_path).format == "keras"


def test_two_configs_are_refused_for_programs_disagree_on_which_one_counts(keras_file: Write, tmp_path: Path) -> None:
    path = keras_file()
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", "{}")
    assert "twice" in refusal(path, tmp_path).message


def test_a_lacking_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    error = refusal(path, tmp_path)
    assert error.work_code == "corrupt_file"
    assert "model.weights.h5" in error.message


def test_a_config_that_unpacks_to_a_gigabyte_is_refused_unread(keras_file: Write, tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(keras_file()) as honest, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("metadata.json", honest.read("metadata.json"))
        bomb.writestr("model.weights.h5", honest.read("model.weights.h5"))
        with bomb.open("config.json", "w") as member:
            for _ in range(64):
                member.write(b" " * 1024**2)
    assert path.stat().st_size < 1024**2
    error = refusal(path, tmp_path)
    assert error.work_code == "unsafe_file"
    assert "config.json" in error.message


def test_weights_that_unpack_to_much_more_than_weights_do_are_refused(keras_file: Write, tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(keras_file()) as honest, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in ("metadata.json", "config.json"):
            bomb.writestr(name, honest.read(name))
        bomb.writestr("model.weights.h5", bytes(17 * 1024**2))
    assert "model.weights.h5" in refusal(path, tmp_path).message


def test_a_link_is_refused(keras_file: Write, tmp_path: Path) -> None:
    path = tmp_path / "link.keras"
    with zipfile.ZipFile(keras_file()) as honest, zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, honest.read(name))
        link = zipfile.ZipInfo("model.weights.h5")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    assert "is a link" in refusal(path, tmp_path).message


def test_an_encrypted_member_is_refused(keras_file: Write, tmp_path: Path) -> None:
    path = keras_file()
    content = bytearray(path.read_bytes())
    # The flags stand 8 bytes into each entry of the central directory.
    at = content.find(b"PK\x01\x02")
    struct.pack_into("<H", content, at + 8, 1)
    path.write_bytes(content)
    assert "encrypted" in refusal(path, tmp_path).message


def test_a_wrong_checksum_is_refused(keras_file: Write, tmp_path: Path) -> None:
    path = keras_file()
    content = path.read_bytes()
    at = content.find(b'"hidden"')
    path.write_bytes(content[:at] + b'"hodden"' + content[at + 8 :])
    error = refusal(path, tmp_path)
    assert error.work_code == "corrupt_file"
    assert "damaged" in error.message


def test_a_file_that_broke_off_is_refused(keras_file: Write, tmp_path: Path) -> None:
    path = keras_file()
    path.write_bytes(path.read_bytes()[:-200])
    assert refusal(path, tmp_path).work_code == "corrupt_file"


def test_too_many_members_are_refused(keras_file: Write, tmp_path: Path) -> None:
    path = keras_file(more={f"m{index}": b"" for index in range(100)})
    assert "members" in refusal(path, tmp_path).message
