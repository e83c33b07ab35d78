"""The lease of a claim, and what a database that refuses or does not answer means for what is written under it."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, OperationalError, ProgrammingError

from worker.lease import Lease

STATEMENT, BECAUSE = "UPDATE", Exception("said by the database")


@pytest.fixture
def lease() -> Lease:
    """Of a claim that was made just now; nothing renews it."""
    services: Any = SimpleNamespace(settings=SimpleNamespace(fence_seconds=60.0, heartbeat_seconds=5.0))
    claim: Any = SimpleNamespace(identifier="ftjob-1", attempt=1, claimed_at=time.monotonic())
    return Lease(services, claim, log=structlog.get_logger())


class Refusing:
    """A write that fails so often in this way."""

    def __init__(self, error: type[DBAPIError], *, times: int) -> None:
        self.error, self.times, self.asked = error, times, 0

    def __call__(self) -> int:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error(STATEMENT, {}, BECAUSE)
        return self.asked


@pytest.mark.parametrize("error", [OperationalError, InternalError])
def test_a_database_that_cannot_be_reached_is_waited_for(lease: Lease, error: type[DBAPIError]) -> None:
    assert lease.persist(Refusing(error, times=1)) == 2


@pytest.mark.parametrize("error", [ProgrammingError, DataError, IntegrityError])
def test_what_the_database_never_takes_is_not_tried_again(lease: Lease, error: type[DBAPIError]) -> None:
    write = Refusing(error, times=1000)
    with pytest.raises(error):
        lease.persist(write)
    assert write.asked == 1
    assert not lease.lost
