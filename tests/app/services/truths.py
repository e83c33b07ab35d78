"""What always holds of a job, whatever happened: row, history, epochs and results agree with a few plain fields."""

import itertools
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import select

from app.domain.errors import LeaseLostError
from app.domain.job import Job
from app.domain.states import MAX_ATTEMPTS, TERMINAL, TRANSITIONS, JobStatus
from app.services import claims, reports
from app.services.context import Services
from app.storage.tables import EventRow, JobRow, MetricRow, ModelRow


class Truths(RuleBasedStateMachine):
    """Looks at one job after every step, by plain SQL."""

    world: Any
    services: Services
    job: Job
    status: JobStatus
    stale: list[claims.JobClaim]
    """Of attempts that are over, the newest last."""
    attempts: int
    lost: int
    epochs: int
    aside: bool
    """Paused because a disk was full, and by nobody else."""
    age: int
    """Steps so far."""

    @invariant()
    def whoever_lost_it_last_cannot_write(self) -> None:
        self.age += 1
        for claim in self.stale[-1:]:
            with pytest.raises(LeaseLostError):
                claims.renew(self.services, claim)
            with pytest.raises(LeaseLostError):
                reports.progress(self.services, claim, [self.world.epoch(9)], checkpoints={})

    @invariant()
    def all_rows_agree(self) -> None:
        identifier = self.job.id
        with self.services.db.read() as session:
            row = session.scalars(select(JobRow).where(JobRow.id == identifier)).one()
            events = session.scalars(select(EventRow).where(EventRow.job_id == identifier).order_by(EventRow.number))
            self._the_row_is_as_told(row)
            self._the_history_is_whole(list(events))
            numbers = select(MetricRow.number).where(MetricRow.job_id == identifier).order_by(MetricRow.number)
            assert list(session.scalars(numbers)) == list(range(1, self.epochs + 1))
            results = list(session.scalars(select(ModelRow.id).where(ModelRow.job_id == identifier)))
            assert results == ([] if row.result_model_id is None else [row.result_model_id])
            assert (row.result_model_id is not None) is (self.status == "succeeded")

    def _the_row_is_as_told(self, row: JobRow) -> None:
        assert row.status == self.status
        assert row.attempt == self.attempts
        assert row.lost_attempts == self.lost < MAX_ATTEMPTS
        assert (row.finished_at is not None) is (self.status in TERMINAL)
        assert (row.error is not None) is (self.status == "failed")
        assert (row.resume_at is not None) is self.aside
        assert (row.queued_at is not None) is (self.status == "queued")

    def _the_history_is_whole(self, told: list[EventRow]) -> None:
        """Without gaps; it ends once; every move is in the table, and each claim counts one attempt."""
        assert [event.number for event in told] == list(range(1, len(told) + 1))
        ends = [event.number for event in told if event.type == "completed"]
        assert ends == ([told[-1].number] if self.status in TERMINAL else [])
        moves = [event.data for event in told if event.type in {"status", "completed"}]
        assert moves[-1]["status"] == self.status
        for old, new in itertools.pairwise(moves):
            assert new["status"] in TRANSITIONS[old["status"]]
            assert new["attempt"] == old["attempt"] + (new["status"] == "running")
