"""Downloads are resumed, checked, and only then get their name."""

import hashlib
import os
from pathlib import Path

import httpx2
import pytest

from tests.thaw.conftest import Cut, FakeService, content, problem
from thaw import Client
from thaw.connection import Connection
from thaw.downloading import download
from thaw.errors import ConnectionFailedError, DownloadError, NotFoundError, WorkFailedError

BODY = os.urandom(300_000)
ETAG = f'"{hashlib.sha256(BODY).hexdigest()}"'


@pytest.fixture
def job(service: FakeService) -> str:
    name = service.add_job(status="succeeded")
    service.artifacts[name] = {"model.keras": BODY, "labels.json": b"[]"}
    return name


def cut_after(count: int) -> httpx2.Response:
    headers = {"etag": ETAG, "content-length": str(len(BODY))}
    return httpx2.Response(200, stream=Cut(BODY[:count]), headers=headers)


def test_a_download_has_the_bytes_and_leaves_nothing_else(client: Client, job: str, tmp_path: Path) -> None:
    saved = client.jobs.download(job, destination=tmp_path)
    assert saved == tmp_path / "model.keras"
    assert saved.read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_destination_may_be_a_file_which_is_replaced(client: Client, job: str, tmp_path: Path) -> None:
    target = tmp_path / "mine.keras"
    target.write_bytes(b"old")
    assert client.jobs.download(job, destination=target) == target
    assert target.read_bytes() == BODY


def test_a_cut_download_goes_on_where_it_broke(
    service: FakeService, client: Client, job: str, tmp_path: Path, pauses: list[float]
) -> None:
    seen: list[int] = []
    service.answers = [None, cut_after(100_000), httpx2.ReadTimeout("silence"), None]
    saved = client.jobs.download(job, destination=tmp_path, on_progress=lambda done, _: seen.append(done))
    assert saved.read_bytes() == BODY
    assert [request.headers.get("range") for request in service.requests[1:]] == [None] + ["bytes=100000-"] * 2
    assert service.requests[2].headers["if-range"] == ETAG
    assert seen == sorted(seen)
    assert len(pauses) == 2


def test_a_file_that_became_another_one_in_between_is_fetched_from_the_start(
    service: FakeService, connection: Connection, tmp_path: Path
) -> None:
    other = b"another model"
    plain = httpx2.Request("GET", "http://thaw.test")
    service.answers = [cut_after(100), content(plain, other)]
    saved = download(connection, "/x", tmp_path / "model.keras", default_name="x")
    assert saved.read_bytes() == other


def test_a_connection_that_breaks_after_the_last_byte_does_no_harm(
    service: FakeService, client: Client, job: str, tmp_path: Path
) -> None:
    service.answers = [None, cut_after(len(BODY))]
    assert client.jobs.download(job, destination=tmp_path).read_bytes() == BODY
    assert len(service.requests) == 2


def test_damaged_bytes_are_refused_and_the_old_file_stays(
    service: FakeService, client: Client, job: str, tmp_path: Path
) -> None:
    (tmp_path / "model.keras").write_bytes(b"the old one")
    damaged = BODY[:-1] + bytes([BODY[-1] ^ 1])
    service.answers = [None, httpx2.Response(200, content=damaged, headers={"etag": ETAG})]
    with pytest.raises(DownloadError, match="damaged"):
        client.jobs.download(job, destination=tmp_path)
    assert (tmp_path / "model.keras").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_download_that_cannot_be_checked_is_not_kept(
    service: FakeService, connection: Connection, tmp_path: Path
) -> None:
    service.answers = [httpx2.Response(200, content=b"x", headers={"etag": '"v1"'})]
    with pytest.raises(DownloadError, match="without a digest"):
        download(connection, "/x", tmp_path, default_name="x")
    assert list(tmp_path.iterdir()) == []


def test_tries_that_bring_nothing_end_and_leave_nothing(
    service: FakeService, client: Client, job: str, tmp_path: Path
) -> None:
    service.answers = [None, cut_after(10), *[httpx2.ReadError("reset")] * 9]
    with pytest.raises(ConnectionFailedError):
        client.jobs.download(job, destination=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_survives_more_cuts_than_tries_as_long_as_each_brings_something(
    service: FakeService, client: Client, job: str, tmp_path: Path
) -> None:
    def part(start: int) -> httpx2.Response:
        return httpx2.Response(206, stream=Cut(BODY[start : start + 10_000]), headers={"etag": ETAG})

    service.answers = [None, cut_after(10_000), *[part(start) for start in range(10_000, 200_000, 10_000)], None]
    assert client.jobs.download(job, destination=tmp_path).read_bytes() == BODY


def test_a_refusal_is_passed_on(service: FakeService, client: Client, job: str, tmp_path: Path) -> None:
    service.answers = [None, problem(404, "not_found", "It is gone.")]
    with pytest.raises(NotFoundError, match="gone"):
        client.jobs.download(job, destination=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_the_job_does_not_have_is_named_with_those_it_has(client: Client, job: str) -> None:
    with pytest.raises(NotFoundError, match=r"'model.onnx'.*model\.keras, labels\.json"):
        client.jobs.download(job, "model.onnx")


def test_a_failed_job_has_nothing_to_download_and_says_why(service: FakeService, client: Client) -> None:
    error = {"class": "user", "code": "illegal_cut", "message": "There is no layer 'x'."}
    job = service.add_job(status="failed", error=error)
    with pytest.raises(WorkFailedError, match="There is no layer 'x'") as caught:
        client.jobs.download(job)
    assert (caught.value.code, caught.value.error_class) == ("illegal_cut", "user")


def test_a_running_job_has_nothing_to_download_yet(service: FakeService, client: Client) -> None:
    with pytest.raises(WorkFailedError, match="is running; wait until"):
        client.jobs.download(service.add_job(status="running"))


def test_a_folder_that_is_not_there_is_our_error(client: Client, job: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="No such file or directory"):
        client.jobs.download(job, destination=tmp_path / "absent" / "model.keras")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="shoes.keras"', "shoes.keras"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\evil.keras"', "evil.keras"),
        ("attachment; filename*=UTF-8''Schuhe%20gr%C3%BCn.keras", "Schuhe grün.keras"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx%00.keras", "default.keras"),
        ('attachment; filename=".."', "default.keras"),
        ("attachment", "default.keras"),
    ],
)
def test_the_name_that_the_service_gives_never_leads_out_of_the_folder(
    service: FakeService, connection: Connection, tmp_path: Path, disposition: str, name: str
) -> None:
    plain = httpx2.Request("GET", "http://thaw.test")
    service.answers = [content(plain, b"x", disposition)]
    assert download(connection, "/x", tmp_path, default_name="default.keras") == tmp_path / name


def test_a_saved_file_has_the_permissions_that_new_files_have(client: Client, job: str, tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    saved = client.jobs.download(job, destination=tmp_path)
    assert saved.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_model_is_checked_by_what_the_headers_promise(service: FakeService, client: Client, tmp_path: Path) -> None:
    service.contents["file-1"] = BODY
    model = service.add_model(file="file-1")
    assert client.models.download(model, tmp_path).read_bytes() == BODY
    service.answers = [httpx2.Response(200, content=BODY[1:], headers={"etag": ETAG})]
    with pytest.raises(DownloadError):
        client.models.download(model, tmp_path / "again.keras")
