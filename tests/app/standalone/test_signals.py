"""Which signals end `thaw up`."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.standalone import programs, up
from app.standalone.service import Service


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("by_nohup", [True, False])
def test_a_hangup_ends_it_unless_nohup_has_it_ignored(tmp_path: Path, *, by_nohup: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if by_nohup else signal.SIG_DFL)

    async def hear(service: Service) -> None:
        stopping = asyncio.Event()
        up._on_signals(service, stopping)
        if by_nohup:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM if by_nohup else signal.SIGHUP)
        await asyncio.wait_for(stopping.wait(), 10)

    settings = Settings(data_dir=tmp_path, redis_url=SecretStr("redis://nowhere"))
    with programs.listen("127.0.0.1", 0) as listener:
        asyncio.run(hear(Service(settings, listener, echo=False)))
