"""The life of a job, told by chance: whatever happens in whatever order, it is what the model below says.

The model is a few plain fields, with which services and database must agree after every step (`truths`). Workers are
three logical ones, whose clocks jump by up to a day; a hint may come to any of them, at any time, and twice. Every life
begins in an empty database, and every move in it is counted by its line in `MOVES`.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from app.domain.again import RetryRequest
from app.domain.errors import CapacityError, Failure, InvalidStateTransitionError, LeaseLostError, StorageFullError
from app.domain.states import MAX_ATTEMPTS, MOVES, TERMINAL, JobStatus, Move
from app.domain.worker import WorkerCapabilities
from app.services import again, aside, claims, failing, jobs, reports
from app.services.sweep import sweep
from app.storage.database import now
from app.storage.tables import JobRow
from tests.app.services.truths import Truths

FAILURE = Failure(error_class="user", code="x", message="It is broken.")
ROOMY = WorkerCapabilities(queues=["cpu"], devices=["cpu"])
DAY_SECONDS = 86_400
WORKERS = ("w1", "w2", "w3")


class Life(Truths):
    """One job, its workers, the people who cancel, pause and resume it, and the sweepers."""

    def __init__(self, world: Any, set_clock: Callable[[float], None], moves: "Counter[Move]") -> None:
        super().__init__()
        self.world, self.services = world, world.services
        self.set_clock = set_clock
        set_clock(0)
        self.moves = moves
        self.status: JobStatus = "queued"
        self.undecided = set[str]()
        self.holder: claims.JobClaim | None = None
        self.stale: list[claims.JobClaim] = []
        self.attempts = self.lost = self.epochs = self.trained = self.kept = 0
        self.cancel_wanted = self.pause_wanted = self.used_up = self.overdue = self.made_smaller = False
        self.aside = False
        self.age = 0

    def teardown(self) -> None:
        self.world.clear()

    def _go(self, new: JobStatus, when: str = "") -> None:
        """The job is `new` now: the one line of `MOVES` from its status to there with these words in `when`."""
        (move,) = [each for each in MOVES if (each.old, each.new) == (self.status, new) and when in each.when]
        self.moves[move] += 1
        self.status, self.aside = new, False

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
                self._go("failed", "a file cannot be used")
            elif not self.undecided:
                self._go("queued")

    # === Its workers ===

    @precondition(lambda self: self.status == "queued" or self.age % 4 == 0)
    @rule(worker=st.sampled_from(WORKERS), jump=st.integers(-DAY_SECONDS, DAY_SECONDS))
    def claim(self, worker: str, jump: int) -> None:
        self.set_clock(jump)  # nothing follows from it: only the database's clock decides
        claim = claims.claim_job(self.services, self.job.id, worker=worker)
        assert (claim is not None) is (self.status == "queued" and not self.overdue)
        if claim is not None:
            assert self.world.get(self.job).attempt.worker == worker
            self.attempts += 1
            assert claim.attempt == self.attempts
            self.holder = claim
            self._go("running")
            # It begins with what was kept, or anew; what was measured before stays.
            self.trained = self.kept
            assert [each.step for each in claim.checkpoints[:1]] == ([self.kept] if self.kept else [])

    @precondition(lambda self: self.status == "queued" and self.age > self.youth)
    @rule()
    def claim_what_somebody_wants_cancelled(self) -> None:
        """No service leaves such a row; whoever finds one cancels it."""
        self.world.set(JobRow, self.job.id, cancel_requested_at=now())
        assert claims.claim_job(self.services, self.job.id, worker="w1") is None
        self.cancel_wanted = True
        self._go("cancelled", "finds a wish")

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
    def end(self, how: JobStatus) -> None:
        if how == "succeeded":
            self.world.succeed(self.holder)
        elif how == "failed":
            reports.fail_job(self.services, self.holder, FAILURE)
        else:
            reports.cancel_job(self.services, self.holder)
        self._let_go()
        self._go(how, "with its reason" if how == "failed" else "")

    @precondition(lambda self: self.holder)
    @rule(charge=st.booleans())
    def release(self, charge: bool) -> None:
        claims.release(self.services, self.holder, charge_attempt=charge)
        self._attempt_ended("crashed" if charge else "it gives the job back", lost=charge)

    @precondition(lambda self: self.holder)
    @rule()
    def crash(self) -> None:
        self._attempt_fails("training_process_crashed")
        self._attempt_ended("crashed", lost=True)

    @precondition(lambda self: self.holder)
    @rule()
    def find_no_room_on_the_disk(self) -> None:
        self._attempt_fails(StorageFullError.code)
        self._attempt_ended("the disk is full", lost=False, set_aside=True)

    @precondition(lambda self: self.holder and (not self.made_smaller or self.age > self.youth))
    @rule()
    def run_out_of_memory(self) -> None:
        self._attempt_fails(CapacityError.code)
        if self.made_smaller:
            self._let_go()
            self._go("failed", "with its reason")
        else:
            self.made_smaller = True
            self._attempt_ended("memory ran out", lost=False)

    def _attempt_fails(self, code: str) -> None:
        failing.attempt_failed(self.services, self.holder, FAILURE.model_copy(update={"code": code}))

    @precondition(lambda self: self.holder)
    @rule()
    def die(self) -> None:
        """The worker is not heard of; the row says running until somebody sweeps."""
        self.world.expire(JobRow, self.job.id)
        self._let_go()

    @precondition(lambda self: self.holder and self.age > self.youth)
    @rule()
    def run_for_long(self) -> None:
        """It matters when the attempt ends without a result."""
        self.world.set(JobRow, self.job.id, run_seconds=2000.0)
        self.used_up = True

    def _let_go(self) -> None:
        assert self.holder is not None
        self.stale.append(self.holder)
        self.holder = None

    def _attempt_ended(self, why: str, *, lost: bool, set_aside: bool = False) -> None:
        """Without a result. `why` it would wait again."""
        if self.holder:
            self._let_go()
        if self.cancel_wanted:
            self._go("cancelled")
        elif self.used_up:
            self._go("failed", "`max_seconds`")
        elif lost and self.lost + 1 >= MAX_ATTEMPTS:
            self._go("failed", "the last that may be lost")
        else:
            self.lost += int(lost)
            if set_aside or self.pause_wanted:
                self._go("paused", why if set_aside else "somebody wants it")
                self.aside = not self.pause_wanted
            else:
                self._go("queued", why)

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
            self._attempt_ended("not heard of", lost=True)
        if self.overdue and self.status in {"validating_files", "queued", "paused"}:
            self._go("failed", "deadline" if self.status == "validating_files" else "")

    @precondition(lambda self: self.aside)
    @rule(over=st.booleans())
    def find_room(self, over: bool) -> None:
        if over:
            self.world.set(JobRow, self.job.id, resume_at=now() - 1)
        assert aside.resume(self.services, ROOMY) == int(over)
        if over:
            self._go("queued", "there is room")

    @precondition(lambda self: self.age > self.youth and self.status not in TERMINAL)
    @rule()
    def pass_its_deadline(self) -> None:
        """It matters once nobody has the job; who has it sees to it."""
        self.world.set(JobRow, self.job.id, deadline_at=now() - 1)
        self.overdue = True

    @precondition(lambda self: self.age > self.youth)
    @rule()
    def cancel(self) -> None:
        if self.status in {"succeeded", "failed"}:
            with pytest.raises(InvalidStateTransitionError):
                jobs.request_cancel(self.services, "default", self.job.id)
            return
        jobs.request_cancel(self.services, "default", self.job.id)
        self.cancel_wanted = True
        if self.status not in {"running", "cancelled"}:
            self._go("cancelled", "at once")

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
            self._go("paused")

    @precondition(lambda self: self.pause_wanted or self.status == "paused" or self.age % 4 == 0)
    @rule()
    def resume(self) -> None:
        if self.status in {*TERMINAL, "validating_files"}:
            with pytest.raises(InvalidStateTransitionError):
                jobs.resume(self.services, "default", self.job.id)
            return
        jobs.resume(self.services, "default", self.job.id)
        self.pause_wanted = False
        if self.status == "paused":
            self._go("queued", "it is resumed")

    @precondition(lambda self: self.status in {"failed", "cancelled"})
    @rule()
    def retry(self) -> None:
        """Another job, of which nothing is told here."""
        before = self.world.get(self.job)
        made = again.retry(self.services, "default", self.job.id, RetryRequest())
        assert (made.retry_of, made.spec) == (before.id, self.job.spec), "as sent, not made smaller"
        assert self.world.get(self.job) == before
