"""A service whose broker is a real one."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.domain.worker import WorkerCapabilities
from app.settings import Settings

CPU = WorkerCapabilities(queues=["cpu", "prepare"], devices=["cpu"])


@pytest.fixture
def settings(tmp_path: Path, shared_valkey: Any) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", redis_url=SecretStr(shared_valkey.url), min_free_disk_bytes=0, api_key=None
    )
