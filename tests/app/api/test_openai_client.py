"""The official `openai` package drives Thaw with nothing changed but `base_url` and `api_key`."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import OpenAI

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

pytestmark = pytest.mark.service

BEGUN: dict[str, Any] = {"bytes": 1, "filename": "a", "mime_type": "text/csv", "purpose": "fine-tune"}
SPEC = {
    "cut": {"drop_last": 1},
    "head": {"layers": [{"type": "dropout", "rate": 0.2}]},
    "schedule": [
        {"name": "head", "unfreeze": "none", "epochs": 4, "optimizer": {"type": "sgd", "learning_rate": 0.01}},
        {"name": "all", "unfreeze": "all", "epochs": 16, "optimizer": {"type": "sgd", "learning_rate": 0.0001}},
    ],
}


@pytest.fixture
def client(live: "Thaw") -> Iterator[OpenAI]:
    with contextlib.closing(OpenAI(base_url=f"{live.client.base_url}/v1", api_key="thaw_test-key")) as client:
        yield client


def test_upload_create_list_retrieve_watch_and_cancel(client: OpenAI, live: "Thaw", tmp_path: Path) -> None:
    (tmp_path / "shoes.npz").write_bytes(b"examples")
    with (tmp_path / "shoes.npz").open("rb") as shoes:
        data = client.files.create(file=shoes, purpose="fine-tune")
    assert (data.filename, data.bytes, data.status) == ("shoes.npz", 8, "processed")
    assert client.files.retrieve(data.id) == data
    assert client.files.content(data.id).read() == b"examples"
    assert [file.id for file in client.files.list()] == [data.id]

    job = client.fine_tuning.jobs.create(
        model=live.ready_model(),
        training_file=data.id,
        seed=42,
        suffix="a",
        metadata={"team": "shoes"},
        extra_body=SPEC,
    )
    assert (job.status, job.seed, job.metadata) == ("validating_files", 42, {"team": "shoes"})
    assert job.hyperparameters.n_epochs == 20
    assert job.training_file == data.id
    assert job.model_extra is not None
    assert job.model_extra["cut"] == {"drop_last": 1}
    assert [phase["name"] for phase in job.model_extra["schedule"]] == ["head", "all"]

    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"team": "shoes"})] == [job.id]
    assert list(client.fine_tuning.jobs.list(metadata={"team": "hats"})) == []

    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None


def test_large_files_go_in_parts(client: OpenAI, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2000
    path = tmp_path / "shoes.npz"
    path.write_bytes(content)
    upload = client.uploads.create(
        bytes=len(content), filename=path.name, mime_type="application/zip", purpose="fine-tune"
    )
    assert (upload.object, upload.status, upload.bytes, upload.file) == ("upload", "pending", len(content), None)
    assert upload.expires_at > upload.created_at
    parts = [client.uploads.parts.create(upload.id, data=half) for half in (content[:200_000], content[200_000:])]
    assert {(part.object, part.upload_id) for part in parts} == {("upload.part", upload.id)}
    ids, md5 = [part.id for part in parts], hashlib.md5(content, usedforsecurity=False).hexdigest()
    for wrong in ({"part_ids": ids[:1]}, {"part_ids": ids[::-1], "md5": md5}):
        with pytest.raises(openai.UnprocessableEntityError):
            client.uploads.complete(upload.id, **wrong)  # type: ignore[arg-type]
    done = client.uploads.complete(upload.id, part_ids=ids, md5=md5)
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.retrieve(done.file.id) == done.file
    assert client.files.content(done.file.id).read() == content

    for size in (None, 100_000):
        chunked = client.uploads.upload_file_chunked(
            file=path, mime_type="application/zip", purpose="fine-tune", part_size=size, md5=md5
        )
        assert chunked.file is not None
        assert (chunked.file.filename, chunked.file.bytes) == ("shoes.npz", len(content))
    assert client.uploads.cancel(client.uploads.create(**BEGUN).id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as ended:
        client.uploads.parts.create(upload.id, data=b"more")
    assert ended.value.code == "invalid_state_transition"


def test_events_and_checkpoints_page_by_themselves(client: OpenAI, live: "Thaw") -> None:
    job = live.job()
    claim = live.claim(job)
    live.run_epochs(claim, 5, checkpoint=b"weights")
    live.succeed(claim)
    events = list(client.fine_tuning.jobs.list_events(job, limit=2))
    assert len(events) > 6
    assert len({event.id for event in events}) == len(events)
    newest, *_, oldest = events
    assert (newest.type, oldest.message) == ("completed", "The job was created and waits for a worker.")
    assert all(event.object == "fine_tuning.job.event" for event in events)
    assert all(isinstance(event.created_at, int) for event in events)

    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job, limit=1)
    assert (checkpoint.fine_tuning_job_id, checkpoint.step_number) == (job, 50)
    assert checkpoint.metrics.train_loss == pytest.approx(0.2)
    assert checkpoint.metrics.step == 50

    finished = client.fine_tuning.jobs.retrieve(job)
    assert (finished.status, finished.error) == ("succeeded", None)
    assert finished.fine_tuned_model is not None
    assert client.models.retrieve(finished.fine_tuned_model).owned_by == "thaw"


def test_pause_and_resume(client: OpenAI, live: "Thaw") -> None:
    job = live.job()
    assert client.fine_tuning.jobs.pause(job).status == "paused"
    assert client.fine_tuning.jobs.pause(job).status == "paused"
    assert client.fine_tuning.jobs.resume(job).status == "queued"
    claim = live.claim(job)
    assert client.fine_tuning.jobs.pause(job).status == "running", "until its worker has kept a checkpoint"
    live.succeed(claim)
    for move in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.ConflictError) as finished:
            move(job)
        assert finished.value.code == "invalid_state_transition"


def test_jobs_page_by_themselves(client: OpenAI, live: "Thaw") -> None:
    ids = [live.job() for _ in range(3)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == ids[::-1]


def test_errors_are_of_the_clients_own_classes_and_say_what_is_wrong(client: OpenAI, live: "Thaw") -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="batch_size") as wrong:
        client.fine_tuning.jobs.create(model="m", training_file="f", extra_body={"batch_size": 0})
    assert (wrong.value.code, wrong.value.param, wrong.value.type) == (
        "invalid_request", "/batch_size", "invalid_request_error",
    )  # fmt: skip
    with pytest.raises(openai.NotFoundError, match="ftjob-0"):
        client.fine_tuning.jobs.retrieve("ftjob-0")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").fine_tuning.jobs.list()
    job = live.job()
    live.succeed(live.claim(job))
    with pytest.raises(openai.ConflictError) as finished:
        client.fine_tuning.jobs.cancel(job)
    assert finished.value.code == "invalid_state_transition"
    assert finished.value.request_id is not None


def test_a_failed_job_tells_why(client: OpenAI, live: "Thaw") -> None:
    from app.domain.errors import Failure
    from app.services import reports

    job = live.job()
    failure = Failure(error_class="user", code="nothing_to_unfreeze", message="Nothing matches.", param="/schedule/1")
    reports.fail_job(live.services, live.claim(job), failure)
    error = client.fine_tuning.jobs.retrieve(job).error
    assert error is not None
    assert (error.code, error.message, error.param) == ("nothing_to_unfreeze", "Nothing matches.", "/schedule/1")
