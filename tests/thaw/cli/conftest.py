"""The command line, connected to the service in memory."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import thaw.client
from tests.thaw.conftest import KEY, URL, FakeService
from thaw.cli.program import app

Run = Callable[..., Result]


@pytest.fixture
def run(service: FakeService, pauses: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `thaw` with these words, in an empty working folder."""
    del pauses
    connected = functools.partial(thaw.client.Client, transport=service.transport)
    monkeypatch.setattr("thaw.client.Client", connected)
    monkeypatch.setenv("THAW_URL", URL)
    monkeypatch.setenv("THAW_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *words, **more: CliRunner().invoke(app, [str(word) for word in words], **more)
