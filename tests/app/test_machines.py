"""API and worker as on two machines: PostgreSQL, Redis and a bucket, and no folder in common."""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

pytestmark = pytest.mark.service
ENTRIES = Path(__file__).resolve().parents[1] / "worker" / "entries"
KEY = "thaw_hunter2-of-the-api"
PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


def _matched(log: Path, pattern: str) -> str:
    """What the log says, as soon as it does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := re.search(pattern, log.read_text())):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]


def _until(client: httpx2.Client, path: str, status: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := client.get(path).json())["status"] != status:
        assert answer["status"] not in {"failed", "cancelled"}, answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer


def test_a_job_gets_from_one_machine_to_the_other_and_back(
    postgres: Any, valkey: Any, bucket: Any, tmp_path: Path
) -> None:
    shared = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("THAW_", "AWS_"))},
        "PYTHONPATH": str(ENTRIES),
        "THAW_DATABASE_URL": postgres.create_database("machines"),
        "THAW_REDIS_URL": valkey.url,
        "THAW_MIN_FREE_DISK_BYTES": "0",
        **{f"THAW_{name.upper()}": value for name, value in bucket.settings.items()},
    }
    key, secret = shared.pop("THAW_S3_ACCESS_KEY"), shared.pop("THAW_S3_SECRET_KEY")
    (tmp_path / "secret").write_text(secret)
    folders = {name: tmp_path / name for name in ("api", "worker")}
    logs = {name: tmp_path / f"{name}.log" for name in folders}
    environments = {name: {**shared, "THAW_DATA_DIR": str(folder)} for name, folder in folders.items()}
    environments["api"] |= {"THAW_API_KEY": KEY, "THAW_PORT": "0"}
    # One by settings of ours, one as cloud providers tell it.
    environments["api"] |= {"THAW_S3_ACCESS_KEY": key, "THAW_S3_SECRET_KEY_FILE": str(tmp_path / "secret")}
    environments["worker"] |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    with (
        _running(["-m", "app.main"], environments["api"], logs["api"]),
        _running(["-m", "fake_worker", "cpu,prepare"], environments["worker"], logs["worker"]) as worker,
        httpx2.Client(
            base_url=_matched(logs["api"], r"Thaw API on (http\S+)"),
            headers={"Authorization": f"Bearer {KEY}"},
            trust_env=False,
        ) as client,
    ):
        files = [_upload(client, name, b"x" * 100_000) for name in ("register.keras", "validate.npz")]
        body = {"model": files[0], "training_file": files[1], "schedule": [{"name": "succeed", "epochs": 1}]}
        answer = client.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 201, answer.text
        job = _until(client, f"/v1/fine_tuning/jobs/{answer.json()['id']}", "succeeded")
        content = client.get(f"/v1/fine_tuning/jobs/{job['id']}/artifacts/model.keras")
        assert content.content == f"model of attempt in {job['id']}-1".encode()
        assert content.headers["ETag"] == f'"{hashlib.sha256(content.content).hexdigest()}"'
        part = client.get(f"/v1/fine_tuning/jobs/{job['id']}/artifacts/model.keras", headers={"Range": "bytes=6-7"})
        assert (part.status_code, part.content) == (206, b"of")
        assert client.get("/readyz").json()["status"] == "ready"
        family = worker.children(recursive=True)
        assert family, "forkserver and resource tracker"
        for process in family:
            environment = Path(f"/proc/{process.pid}/environ").read_text()
            assert not re.search("hunter2|key-of-thaw|AWS_|THAW_(DATABASE|REDIS|ARTIFACTS)", environment)
        bucket.delete()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (ready := client.get("/readyz")).status_code != 503:  # its last answer is kept for a moment
            assert time.monotonic() < deadline, ready.text
            time.sleep(0.2)
        assert {part["name"]: part["ok"] for part in ready.json()["parts"]}["store"] is False
        refused = client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "fine-tune"})
        assert (refused.status_code, refused.json()["code"]) == (503, "misconfigured")
        assert client.get(f"/v1/files/{files[0]}/content").status_code == 503
    left = [path.relative_to(tmp_path) for name in folders for path in folders[name].rglob("*") if path.is_file()]
    assert not [path for path in left if "artifacts" in path.parts or "spool" in path.parts or path.suffix == ".db"]


def _upload(client: httpx2.Client, name: str, content: bytes) -> str:
    answer = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
