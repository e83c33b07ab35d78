"""Signals to a worker, as Celery's program takes them."""

import signal
from collections.abc import Iterator

import pytest
from celery import Celery

from worker.celery_app import HintWorker

TAKEN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in TAKEN}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")  # where tests run as root
@pytest.mark.parametrize("by_nohup", [True, False])
def test_a_hangup_stops_a_worker_unless_nohup_has_it_ignored(*, by_nohup: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if by_nohup else signal.SIG_DFL)
    worker = HintWorker(app=Celery(set_as_current=False), hostname="w", pool_cls="threads", quiet=True)
    worker.install_platform_tweaks(worker)
    assert callable(signal.getsignal(signal.SIGTERM))
    expected = signal.SIG_IGN if by_nohup else signal.getsignal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is expected
