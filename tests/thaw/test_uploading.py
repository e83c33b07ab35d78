"""Uploads are streamed, counted, hashed and repeated."""

import io
from pathlib import Path
from typing import IO

import httpx2
import pytest

from tests.thaw.conftest import FakeService, problem
from thaw import Client
from thaw.errors import ConnectionFailedError, ServerError, ThawClientError, TooLargeError, UnexpectedAnswerError

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "Schuhe 1.zip"
    found.write_bytes(CONTENT)
    return found


def test_what_arrives_is_what_was_sent(service: FakeService, client: Client, path: Path) -> None:
    file = client.files.upload(path)
    assert service.contents[file.id] == CONTENT
    assert (file.filename, file.bytes) == ("Schuhe 1.zip", len(CONTENT))


def test_a_file_object_is_sent_from_its_start(service: FakeService, client: Client) -> None:
    opened = io.BytesIO(CONTENT)
    opened.seek(1000)
    file = client.files.upload(opened, filename="data.npz")
    assert service.contents[file.id] == CONTENT
    assert file.filename == "data.npz"


def test_progress_counts_up_to_the_size(client: Client, path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    client.files.upload(path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 1


def test_an_upload_that_breaks_off_is_repeated_from_the_start_with_the_same_key(
    service: FakeService, client: Client, path: Path
) -> None:
    service.answers = [httpx2.WriteError("Broken pipe"), problem(503, "busy", "Later."), None]
    seen: list[int] = []
    file = client.files.upload(path, on_progress=lambda done, _total: seen.append(done))
    assert service.contents[file.id] == CONTENT
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1
    assert seen.count(len(CONTENT)) == 3


def test_a_pipe_is_sent_once_and_not_again(service: FakeService, client: Client) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_where: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    file = client.files.upload(Pipe(CONTENT), filename="pipe.zip")
    assert service.contents[file.id] == CONTENT
    service.answers = [problem(503, "busy", "Later.")] * 9
    with pytest.raises(ServerError):
        client.files.upload(Pipe(CONTENT), filename="pipe.zip")
    assert len(service.requests) == 2


def test_bytes_that_changed_on_the_way_are_noticed(service: FakeService, client: Client, path: Path) -> None:
    stored = {"id": "file-1", "filename": "a", "bytes": 3, "sha256": "0" * 64}
    service.answers = [httpx2.Response(201, json=stored)]
    with pytest.raises(UnexpectedAnswerError, match="changed on the way"):
        client.files.upload(path)


def test_a_file_that_is_too_large_for_the_service_is_refused(service: FakeService, client: Client, path: Path) -> None:
    service.answers = [problem(413, "too_large", "At most 5 bytes.")]
    with pytest.raises(TooLargeError, match="At most 5"):
        client.files.upload(path)


def test_a_file_that_is_not_there_is_our_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ThawClientError, match=r"absent\.zip cannot be read: No such file"):
        client.files.upload(tmp_path / "absent.zip")


def test_a_large_file_is_never_whole_in_memory() -> None:
    """The largest piece that is asked of the file stays small, whatever the file's size."""
    sizes: list[int] = []

    class Sparse(io.RawIOBase):
        """64 MiB that take no room."""

        position = 0

        def read(self, size: int = -1) -> bytes:
            sizes.append(size)
            chunk = b"\0" * min(size, 64 * 1024**2 - self.position)
            self.position += len(chunk)
            return chunk

        def seek(self, offset: int, whence: int = 0) -> int:
            self.position = offset + (64 * 1024**2 if whence == 2 else 0)
            return self.position

        def tell(self) -> int:
            return self.position

        def seekable(self) -> bool:
            return True

    received = 0

    class Counting(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal received
            assert isinstance(request.stream, httpx2.SyncByteStream)
            received = sum(len(chunk) for chunk in request.stream)
            return httpx2.Response(201, json={"id": "file-1", "filename": "a", "bytes": 1})

    source: IO[bytes] = Sparse()  # type: ignore[assignment]  # as much of a file as is needed
    with Client("http://thaw.test", "key", transport=Counting()) as streaming:
        streaming.files.upload(source, filename="large.zip")
    assert received > 64 * 1024**2
    assert 0 < max(sizes) <= 1024**2
    assert min(sizes) > 0


def test_a_service_that_is_away_is_told(service: FakeService, client: Client, path: Path) -> None:
    service.answers = [httpx2.ConnectError("refused")] * 9
    with pytest.raises(ConnectionFailedError):
        client.files.upload(path)
