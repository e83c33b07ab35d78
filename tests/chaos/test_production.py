"""The shortest run on many machines' parts: PostgreSQL is cut off and killed, S3 is cut off, and two jobs end."""

import dataclasses
import json

import pytest

from tests.chaos.acts import Act
from tests.chaos.run import Options, chaos
from tests.servers import postgres_folder

pytestmark = [pytest.mark.service, pytest.mark.tensorflow, pytest.mark.timeout(600)]

ACTS = [
    Act(1, "cut", "postgres", pick=0, after_seconds=0.5, patient=True, seconds=1.0),
    # So long that a checkpoint is on its way meanwhile.
    Act(2, "cut", "store", pick=0, after_seconds=0.1, patient=False, seconds=4.0),
    # An odd pick is the process that all others of PostgreSQL belong to. The run ends with the last kill.
    Act(3, "kill", "postgres", pick=1, after_seconds=0.1, patient=True),
]
SEED = 1
"""With it nobody cancels or pauses."""


def test_two_jobs_end_though_postgresql_and_the_store_break_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    if postgres_folder() is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql")
    folder = tmp_path_factory.mktemp("production")
    log = folder / "acts.jsonl"
    log.write_text("".join(json.dumps(dataclasses.asdict(act)) + "\n" for act in ACTS))
    summary = chaos(Options(folder=folder, stack="production", jobs=2, kills=1, seed=SEED, kinds=1, replay=log)).summary
    assert summary["violations"] == []
    assert summary["done"] == {"cut": {"postgres": 1, "store": 1}, "kill": {"postgres": 1}}
    assert (summary["statuses"], summary["compared"]) == ({"succeeded": 2}, 2)
