"""Hostile and damaged archives are refused by a message that names the member."""

import gzip
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.errors import DataError
from worker.engine.data import archives
from worker.engine.data.archives import DamagedMemberError, read_members, safe_parts, sniff

MIB = 2**20


def names(path: Path, *, max_unpacked_bytes: int = 2**30, max_ratio: float | None = 100.0) -> list[str]:
    members = read_members(path, max_unpacked_bytes=max_unpacked_bytes, max_ratio=max_ratio)
    return [member.name for member in members if member.stream is not None and member.read() is not None]


# === Names ===


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.png", "points outside"),
        ("cat/../../evil.png", "points outside"),
        ("cat\\..\\..\\evil.png", "points outside"),
        ("/etc/evil.png", "absolute"),
        ("\\\\server\\share\\evil.png", "absolute"),
        ("C:/evil.png", "drive"),
        ("c:evil.png", "drive"),
        ("cat/evil\n.png", "control characters"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_out_of_the_archive_is_refused(
    name: str, why: str, kind: str, make_zip: Callable[..., Path], make_tar: Callable[..., Path]
) -> None:
    path = make_zip({name: b"x"}) if kind == "zip" else make_tar({name: b"x"})
    with pytest.raises(DataError, match=why) as caught:
        names(path)
    assert repr(name) in caught.value.message or repr(name.replace("\\", "/")) in caught.value.message


def test_a_name_is_cut_into_its_folders() -> None:
    assert safe_parts("./data//cat\\1.png") == ("data", "cat", "1.png")


def test_one_class_keeps_one_name_whatever_the_unicode_form() -> None:
    assert safe_parts("Cafe\u0301/1.png") == safe_parts("Caf\u00e9/1.png")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat/1.png", b"a")
            archive.writestr("cat/./1.png", b"b")
    else:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("cat/1.png"))
            tar.addfile(tarfile.TarInfo("cat/1.png"))
    with pytest.raises(DataError, match=r"'cat/1\.png' twice"):
        names(path)


def test_files_that_operating_systems_leave_behind_are_marked(make_zip: Callable[..., Path]) -> None:
    path = make_zip({"__MACOSX/cat/._1.png": b"", "cat/.DS_Store": b"", "cat/Thumbs.db": b"", "cat/1.png": b""})
    members = list(read_members(path, max_unpacked_bytes=MIB))
    assert [member.name for member in members if not member.ignored] == ["cat/1.png"]


# === Kinds of members ===


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "neither a file nor a folder"),
        (tarfile.FIFOTYPE, "neither a file nor a folder"),
    ],
)
def test_a_tar_with_anything_but_files_is_refused(kind: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.tar"
    info = tarfile.TarInfo("cat/evil.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "w") as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=rf"'cat/evil\.png' is {why}"):
        names(path)


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload.zip"
    info = zipfile.ZipInfo("cat/evil.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"'cat/evil\.png' is a symbolic link"):
        names(path)


def test_an_encrypted_member_is_refused(make_zip: Callable[..., Path]) -> None:
    path = make_zip({"cat/1.png": b"secret"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"'cat/1\.png' is encrypted"):
        names(path)


def test_members_that_share_bytes_are_refused(make_zip: Callable[..., Path]) -> None:
    path = make_zip({"a/1.png": b"x" * 1000, "b/2.png": b"y" * 1000})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # both begin at the first local header
    path.write_bytes(data)
    with pytest.raises(DataError, match="share the same bytes"):
        names(path)


# === Bombs ===


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_decompression_bomb_is_refused_by_its_ratio(
    kind: str, make_zip: Callable[..., Path], make_tar: Callable[..., Path]
) -> None:
    members = {"cat/1.png": b"fine", "cat/bomb.png": bytes(80 * MIB)}
    path = make_zip(members) if kind == "zip" else make_tar(members)
    with pytest.raises(DataError, match=r"'cat/bomb\.png'.*times its size"):
        names(path)
    assert names(path, max_ratio=None) == ["cat/1.png", "cat/bomb.png"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_more_unpacked_bytes_than_the_limit_are_refused(
    kind: str, make_zip: Callable[..., Path], make_tar: Callable[..., Path]
) -> None:
    members = {"cat/1.png": bytes(600), "cat/2.png": bytes(600)}
    path = make_zip(members) if kind == "zip" else make_tar(members)
    with pytest.raises(DataError, match=r"1,000 bytes.*'cat/2\.png'"):
        names(path, max_unpacked_bytes=1000)
    assert len(names(path, max_unpacked_bytes=1200)) == 2


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_declared(make_zip: Callable[..., Path]) -> None:
    path = make_zip({"cat/bomb.png": bytes(10 * MIB)})
    data = path.read_bytes().replace(struct.pack("<I", 10 * MIB), struct.pack("<I", 100))
    path.write_bytes(data)
    members = read_members(path, max_unpacked_bytes=1000)
    member = next(members)
    with pytest.raises(DamagedMemberError, match="CRC"):
        member.read()


def test_a_tar_record_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload.tar.gz"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 3 * MIB
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(3 * MIB))
    with pytest.raises(DataError, match="record for 'pax' takes 3,145,728 bytes"):
        names(path)


def test_a_zip_directory_that_would_fill_the_memory_is_refused(
    make_zip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip({f"cat/{index}.png": b"" for index in range(100)})
    assert len(names(path)) == 100
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(DataError, match="directory takes"):
        names(path)


def test_too_many_members_are_refused(make_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 members"):
        names(make_tar({f"cat/{index}.png": b"" for index in range(4)}))


# === Damage ===


def test_a_damaged_member_of_a_zip_leaves_the_others_readable(make_zip: Callable[..., Path]) -> None:
    path = make_zip({"cat/1.png": b"first " * 50, "cat/2.png": b"second " * 50})
    data = bytearray(path.read_bytes())
    data[data.index(b"cat/1.png") + len("cat/1.png") + 3] ^= 0xFF
    path.write_bytes(data)
    members = read_members(path, max_unpacked_bytes=MIB)
    with pytest.raises(DamagedMemberError):
        next(members).read()
    assert next(members).read() == b"second " * 50


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_a_truncated_archive_is_refused(
    cut: float, kind: str, make_zip: Callable[..., Path], make_tar: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    members = {f"cat/{index}.png": picture(index, size=(40, 40)) for index in range(5)}
    path = make_zip(members) if kind == "zip" else make_tar(members, mode="w:gz" if kind == "tar.gz" else "w")
    data = path.read_bytes()
    end = int(len(data) * cut) if kind != "tar" else int(5 * 5000 * cut)
    path.write_bytes(data[:end])
    with pytest.raises((DataError, DamagedMemberError), match=r"damaged|ended before"):
        names(path)


def test_a_tar_gz_whose_sum_does_not_match_is_refused(make_tar: Callable[..., Path]) -> None:
    path = make_tar({"cat/1.png": b"x" * 100})
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged: CRC"):
        names(path)


def test_a_gzip_file_in_several_pieces_is_read_whole(make_tar: Callable[..., Path]) -> None:
    path = make_tar({"cat/1.png": b"x" * 5000, "cat/2.png": b"y"}, mode="w")
    data = path.read_bytes()
    path.write_bytes(gzip.compress(data[:3000]) + gzip.compress(data[3000:]))
    assert names(path) == ["cat/1.png", "cat/2.png"]


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"", "empty"),
        (b"\x93NUMPY\x01\x00", "a single npy array"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x04\x95", "pickle"),
        (b"hello", "does not know"),
    ],
)
def test_other_files_are_refused_by_what_they_are(start: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.zip"
    path.write_bytes(start)
    with pytest.raises(DataError, match=says):
        sniff(path)


def test_mutated_archives_give_a_clear_error_or_nothing_worse(
    make_zip: Callable[..., Path], make_tar: Callable[..., Path], tmp_path: Path
) -> None:
    rng = random.Random(7)  # noqa: S311 (reproducible, not secret)
    members = {"cat/1.png": b"one" * 40, "dog/": b"", "dog/2.png": b"two" * 40}
    originals = [make_zip(members).read_bytes(), make_tar(members, mode="w").read_bytes()[:4096]]
    path = tmp_path / "mutated"
    refused = 0
    for original in originals:
        for _ in range(400):
            data = bytearray(original)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            try:
                names(path)
            except (DataError, DamagedMemberError):
                refused += 1
    assert refused > 200
