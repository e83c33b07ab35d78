"""Uploads behind a balancer: several API processes that share a database and a bucket, and no folder."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services.context import Services
from app.services.sweep import sweep
from app.settings import Settings
from tests.app.api.conftest import KEY
from tests.app.api.test_uploads import UPLOADS, begin, complete, parts_of, send


@pytest.fixture
def apis(tmp_path: Path, fresh_database: Path, bucket: Any) -> Iterator[list[TestClient]]:
    (tmp_path / "thaw.db").write_bytes(fresh_database.read_bytes())
    with contextlib.ExitStack() as running:
        clients = []
        for name in ("a", "b"):
            settings = Settings(
                data_dir=tmp_path / name,
                database_url=f"sqlite:///{tmp_path / 'thaw.db'}",
                api_key=KEY,
                min_free_disk_bytes=0,
                **bucket.settings,
            )
            headers = {"Authorization": f"Bearer {KEY}"}
            client = TestClient(create_app(settings), base_url="http://127.0.0.1:8420", headers=headers)
            clients.append(running.enter_context(client))
        yield clients


def test_any_of_them_takes_any_part_and_completes(apis: list[TestClient], bucket: Any, tmp_path: Path) -> None:
    content = os.urandom(400_000)
    pieces = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
    upload = begin(apis[0], content)["id"]
    for number, piece in enumerate(pieces, start=1):
        assert send(apis[number % 2], upload, piece, number=number).status_code == 201
    assert parts_of(apis[0], upload) == parts_of(apis[1], upload)
    assert len(bucket.keys()) == len(pieces)
    ids = [part["id"] for part in parts_of(apis[1], upload)]
    with ThreadPoolExecutor(2) as threads:
        answers = [each.json() for each in threads.map(lambda api: complete(api, upload, *ids), apis)]
    assert answers[0] == answers[1] == apis[0].get(f"{UPLOADS}/{upload}").json()
    file = answers[0]["file"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert apis[1].get(f"/v1/files/{file['id']}/content").content == content
    assert len(apis[0].get("/v1/files").json()["data"]) == 1

    services: Services = apis[0].app.state.services  # type: ignore[attr-defined]  # FastAPI's
    sweep(services)
    assert [key.rpartition("/")[2] for key in bucket.keys()] == [file["sha256"]]  # noqa: SIM118 (no dictionary)
    assert [path for name in ("a", "b") for path in (tmp_path / name / "spool").iterdir()] == []
