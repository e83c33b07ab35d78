"""`client.files`."""

from pathlib import Path

import pytest

from tests.thaw.conftest import FakeService
from thaw import Client
from thaw.errors import NotFoundError


def test_a_file_goes_up_and_comes_back(service: FakeService, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"bytes")
    file = client.files.upload(tmp_path / "a.npz")
    assert client.files.get(file.id) == file
    assert [found.id for found in client.files.list()] == [file.id]
    assert client.files.download(file.id, tmp_path / "b.npz").read_bytes() == b"bytes"
    client.files.delete(file.id)
    assert service.files == {}


def test_a_file_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(NotFoundError, match="file-absent"):
        client.files.get("file-absent")
