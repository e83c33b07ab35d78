"""The life of a job, told by chance: whatever happens in whatever order, it is what the model below says.

The model is a few plain fields; the services and the database must agree with it after every step. Workers are three
logical ones, whose clocks jump by up to a day; a hint may come to any of them, at any time, and twice.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from app.domain.again import RetryRequest
from app.domain.errors import Failure, InvalidStateTransitionError, LeaseLostError
from app.domain.states import MAX_ATTEMPTS, TERMINAL, TRANSITIONS
from app.domain.worker import WorkerCapabilities
from app.services import again, aside, claims, failing, history, jobs, models, reports
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.paging import PageQuery
from app.storage.tables import JobRow

FAILURE = Failure(error_class="user", code="x", message="It is broken.")
FULL = Failure(error_class="platform", code="storage_full", message="There is no room.")
ROOMY = WorkerCapabilities(queues=["cpu"], devices=["cpu"])
DAY_SECONDS = 86_400
WORKERS = ("w1", "w2", "w3")


class Life(RuleBasedStateMachine):
    """One job, its workers, the people who cancel, pause and resume it, and the sweepers."""

    def __init__(self, world: Any, set_clock: Callable[[float], None]) -> None:
        super().__init__()
        self.world, self.services = world, world.services
        self.set_clock = set_clock
        set_clock(0)
        self.status = "queued"
        self.undecided = set[str]()
        self.holder: claims.JobClaim | None = None
        self.stale: list[claims.JobClaim] = []
        self.attempts = self.lost = self.epochs = self.trained = self.kept = 0
        self.cancel_wanted = self.pause_wanted = self.used_up = self.aside = False
        self.age = 0

    # === How it begins ===

    @initialize(from_files=st.sampled_from([False, False, True]), youth=st.integers(0, 20))
    def submit(self, from_files: bool, youth: int) -> None:
        self.youth = youth  # the steps in which nothing ends it for good, or most lives would be short
        if from_files:
            changes = {"model": self.world.file().id, "training_file": self.world.file("a.zip").id}
            self.status, self.undecided = "validating_files", {"model", "dataset"}
        else:
            changes = {}
        self.job = self.world.job(**changes, max_seconds=1000)

    # === Its files ===

    @precondition(lambda self: "model" in self.undecided)
    @rule(good=st.sampled_from([True, True, True, False]))
    def decide_model(self, good: bool) -> None:
        claim = claims.claim_model(self.services, self.job.model_id, worker="p")
        assert claim is not None
        if good:
            reports.finish_model(self.services, claim, info=self.world.info(), canonical=[])
        else:
            reports.fail_model(self.services, claim, FAILURE)
        self._decided("model", good=good)

    @precondition(lambda self: "dataset" in self.undecided)
    @rule()
    def decide_dataset(self) -> None:
        self.world.finish_dataset(self.job.dataset_id)
        self._decided("dataset", good=True)

    def _decided(self, which: str, *, good: bool) -> None:
        self.undecided.remove(which)
        if self.status == "validating_files":
            if not good:
                self.status = "failed"
            elif not self.undecided:
                self.status = "queued"

    # === Its workers ===

    @precondition(lambda self: self.status == "queued" or self.age % 4 == 0)
    @rule(worker=st.sampled_from(WORKERS), jump=st.integers(-DAY_SECONDS, DAY_SECONDS))
    def claim(self, worker: str, jump: int) -> None:
        self.set_clock(jump)  # nothing follows from it: only the database's clock decides
        claim = claims.claim_job(self.services, self.job.id, worker=worker)
        assert (claim is not None) is (self.status == "queued")
        if claim is not None:
            assert self.world.get(self.job).attempt.worker == worker
            self.attempts += 1
            assert claim.attempt == self.attempts
            self.holder, self.status, self.aside = claim, "running", False
            # It begins with what was kept, or anew; what was measured before stays.
            self.trained = self.kept
            assert [each.step for each in claim.checkpoints[:1]] == ([self.kept] if self.kept else [])

    @precondition(lambda self: self.holder)
    @rule(twice=st.booleans())
    def train_an_epoch(self, twice: bool) -> None:
        self.trained += 1
        self.epochs = max(self.epochs, self.trained)
        for _ in range(2 if twice else 1):
            reports.progress(self.services, self.holder, [self.world.epoch(self.trained)], checkpoints={})
        assert claims.renew(self.services, self.holder)

    @precondition(lambda self: self.holder and self.trained > self.kept)
    @rule()
    def keep_a_checkpoint(self) -> None:
        self.world.keep(self.holder, self.trained, step=self.trained)
        self.kept, self.lost = self.trained, 0

    @precondition(lambda self: self.holder and self.age > self.youth)
    @rule(how=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def end(self, how: str) -> None:
        if how == "succeeded":
            self.world.succeed(self.holder)
        elif how == "failed":
            reports.fail_job(self.services, self.holder, FAILURE)
        else:
            reports.cancel_job(self.services, self.holder)
        self._let_go(how)

    @precondition(lambda self: self.holder)
    @rule(charge=st.booleans())
    def release(self, charge: bool) -> None:
        claims.release(self.services, self.holder, charge_attempt=charge)
        self._attempt_ended(lost=charge)

    @precondition(lambda self: self.holder)
    @rule()
    def find_no_room(self) -> None:
        failing.attempt_failed(self.services, self.holder, FULL)
        self._attempt_ended(lost=False)
        if self.status in {"queued", "paused"}:
            self.status, self.aside = "paused", not self.pause_wanted

    @precondition(lambda self: self.holder)
    @rule()
    def die(self) -> None:
        """The worker is not heard of; the row says running until somebody sweeps."""
        self.world.expire(JobRow, self.job.id)
        self._let_go("running")

    @precondition(lambda self: self.holder)
    @rule()
    def run_for_long(self) -> None:
        """It matters when the attempt ends without a result."""
        self.world.set(JobRow, self.job.id, run_seconds=2000.0)
        self.used_up = True

    def _let_go(self, status: str) -> None:
        assert self.holder is not None
        self.stale.append(self.holder)
        self.holder, self.status = None, status

    def _attempt_ended(self, *, lost: bool) -> None:
        if self.holder:
            self.stale.append(self.holder)
        self.holder = None
        if self.cancel_wanted:
            self.status = "cancelled"
        elif self.used_up or (lost and self.lost + 1 >= MAX_ATTEMPTS):
            self.status = "failed"
        else:
            self.status, self.lost = "paused" if self.pause_wanted else "queued", self.lost + int(lost)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), write=st.sampled_from(["renew", "progress", "succeed", "fail", "cancel", "release"]))
    def write_though_it_is_lost(self, data: Any, write: str) -> None:
        claim = data.draw(st.sampled_from(self.stale))
        with pytest.raises(LeaseLostError):
            {
                "renew": lambda: claims.renew(self.services, claim),
                "progress": lambda: reports.progress(self.services, claim, [self.world.epoch(9)], checkpoints={}),
                "succeed": lambda: self.world.succeed(claim),
                "fail": lambda: reports.fail_job(self.services, claim, FAILURE),
                "cancel": lambda: reports.cancel_job(self.services, claim),
                "release": lambda: claims.release(self.services, claim, charge_attempt=True),
            }[write]()

    # === Everybody else ===

    @precondition(lambda self: self.holder is None or self.age % 4 == 0)
    @rule(sweepers=st.integers(1, 2))
    def sweep(self, sweepers: int) -> None:
        for _ in range(sweepers):
            sweep(self.services)
        if self.status == "running" and self.holder is None:
            self._attempt_ended(lost=True)

    @precondition(lambda self: self.aside)
    @rule(over=st.booleans())
    def find_room(self, over: bool) -> None:
        if over:
            self.world.set(JobRow, self.job.id, resume_at=now() - 1)
        assert aside.resume(self.services, ROOMY) == int(over)
        if over:
            self.status, self.aside = "queued", False

    @precondition(lambda self: self.age > self.youth)
    @rule()
    def cancel(self) -> None:
        if self.status in {"succeeded", "failed"}:
            with pytest.raises(InvalidStateTransitionError):
                jobs.request_cancel(self.services, "default", self.job.id)
            return
        jobs.request_cancel(self.services, "default", self.job.id)
        self.cancel_wanted, self.aside = True, False
        if self.status != "running":
            self.status = "cancelled"

    @precondition(lambda self: self.age % 3 == 0)
    @rule()
    def pause(self) -> None:
        if self.status in {*TERMINAL, "validating_files"}:
            with pytest.raises(InvalidStateTransitionError):
                jobs.request_pause(self.services, "default", self.job.id)
            return
        jobs.request_pause(self.services, "default", self.job.id)
        self.pause_wanted, self.aside = True, False
        if self.status == "queued":
            self.status = "paused"

    @precondition(lambda self: self.pause_wanted or self.age % 4 == 0)
    @rule()
    def resume(self) -> None:
        if self.status in {*TERMINAL, "validating_files"}:
            with pytest.raises(InvalidStateTransitionError):
                jobs.resume(self.services, "default", self.job.id)
            return
        jobs.resume(self.services, "default", self.job.id)
        self.pause_wanted = self.aside = False
        if self.status == "paused":
            self.status = "queued"

    @precondition(lambda self: self.status in {"failed", "cancelled"})
    @rule()
    def retry(self) -> None:
        """Another job, of which nothing is told here."""
        before = self.world.get(self.job)
        made = again.retry(self.services, "default", self.job.id, RetryRequest())
        assert (made.retry_of, made.spec) == (before.id, before.spec)
        assert self.world.get(self.job) == before

    # === What always holds ===

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
        assert (job.resume_at is not None) is (job.set_aside is not None) is self.aside

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


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of this process, not the database's, by so many seconds."""
    real = time.time

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return set_clock


EXAMPLES = {"sqlite": 20, "postgresql": 6}


def test_a_life_told_by_chance_is_what_the_model_says(world: Any, set_clock: Callable[[float], None]) -> None:
    run_state_machine_as_test(
        lambda: Life(world, set_clock),
        settings=settings(
            max_examples=EXAMPLES[world.services.db.engine.dialect.name],
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a life is short enough to be read as it is, and shrinking takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
