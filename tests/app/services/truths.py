"""What always holds of a job, whatever happened to it: row, history, epochs and results agree with a few plain fields."""

import itertools
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import select

from app.domain.errors import LeaseLostError
from app.domain.job import Job
from app.domain.states import MAX_ATTEMPTS, TERMINAL, TRANSITIONS, JobStatus
from app.services import claims, history, models, reports
from app.services.context import Services
from app.storage.paging import PageQuery
from app.storage.tables import JobRow


class Truths(RuleBasedStateMachine):
    """Looks at one job after every step."""

    world: Any
    services: Services
    job: Job
    status: JobStatus
    stale: list[claims.JobClaim]
    """Of attempts that are over, the newest last."""
    attempts: int
    lost: int
    epochs: int
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
    def the_row_is_as_told(self) -> None:
        job = self.world.get(self.job)
        assert job.status == self.status
        assert job.attempt.number == self.attempts
        assert (job.finished_at is not None) is (self.status in TERMINAL)
        assert (job.error is not None) is (self.status == "failed")

    @invariant()
    def every_move_is_in_the_table_and_each_claim_counts_one_attempt(self) -> None:
        told = history.events_since(self.services, "default", self.job.id, after_number=0)
        moves = [event.data for event in told if event.type in {"status", "completed"}]
        for old, new in itertools.pairwise(moves):
            assert new["status"] in TRANSITIONS[old["status"]]
            assert new["attempt"] == old["attempt"] + (new["status"] == "running")

    @invariant()
    def attempts_that_were_lost_are_counted_and_never_too_many(self) -> None:
        with self.services.db.read() as session:
            lost = session.scalars(select(JobRow.lost_attempts).where(JobRow.id == self.job.id)).one()
        assert lost == self.lost < MAX_ATTEMPTS

    @invariant()
    def the_history_has_no_gaps_and_ends_once(self) -> None:
        told = history.events_since(self.services, "default", self.job.id, after_number=0)
        assert [event.number for event in told] == list(range(1, len(told) + 1))
        ends = [event.number for event in told if event.type == "completed"]
        assert ends == ([told[-1].number] if self.status in TERMINAL else [])
        assert [event.data["status"] for event in told if event.type in {"status", "completed"}][-1] == self.status

    @invariant()
    def every_epoch_is_told_once(self) -> None:
        page = history.metrics(self.services, "default", self.job.id, PageQuery(limit=100, order="asc"))
        assert [row.number for row in page.items] == list(range(1, self.epochs + 1))

    @invariant()
    def there_is_one_result_if_it_succeeded_and_none_otherwise(self) -> None:
        made = models.list_page(self.services, "default", PageQuery(limit=100), status="ready").items
        results = [model.id for model in made if model.job_id == self.job.id]
        expected = self.world.get(self.job).result_model_id
        assert results == ([] if expected is None else [expected])
        assert (expected is not None) is (self.status == "succeeded")
