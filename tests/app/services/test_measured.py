"""Times of plans that were measured in earlier jobs."""

from typing import Any

from app.domain.plan import Plan
from app.services import jobs, reports

HEAD = {"name": "head", "unfreeze": "none", "epochs": 4, "optimizer": {"type": "sgd", "learning_rate": 0.01}}
TOP = {"name": "top", "unfreeze": {"last": 1}, "epochs": 2, "optimizer": {"type": "adam", "learning_rate": 0.001}}
ALL = {"name": "all", "unfreeze": "all", "epochs": 16, "optimizer": {"type": "sgd", "learning_rate": 0.0001}}


def test_times_are_told_from_an_earlier_job_that_did_the_same(world: Any) -> None:
    request = world.request(schedule=[HEAD, ALL], batch_size=16)
    job = jobs.submit(world.services, "default", request)
    claim = world.claim(job)
    epochs = [world.epoch(1, seconds=5.0), *(world.epoch(epoch, seconds=0.25) for epoch in (2, 3, 4))]
    reports.progress(world.services, claim, epochs, checkpoints={})
    world.succeed(claim)
    same = {"model": request.model, "training_file": request.training_file, "batch_size": 16}
    head, top = _plan(world, **same, schedule=[{**HEAD, "epochs": 10}, TOP]).phases
    assert head.time is not None
    assert (head.time.origin, head.time.epoch_seconds, head.time.device) == ("jobs", 0.25, "cpu")
    assert head.time.start_seconds == 1.5 - 4 * 0.25, "the report says that the phase took 1.5 s"
    assert head.time.seconds == 0.5 + 10 * 0.25
    assert top.time is None, "nobody has trained the last layer yet"
    assert _plan(world, **{**same, "batch_size": 32}, schedule=[HEAD]).phases[0].time is None
    assert _plan(world, **same, cut={"layer": "dense_1"}, schedule=[HEAD]).phases[0].time is None


def test_a_job_that_was_never_measured_tells_nothing(world: Any) -> None:
    request = world.request(schedule=[HEAD])
    world.succeed(world.claim(jobs.submit(world.services, "default", request)))
    (phase,) = _plan(world, model=request.model, training_file=request.training_file, schedule=[HEAD]).phases
    assert phase.time is None


def _plan(world: Any, **changes: Any) -> Plan:
    return jobs.plan(world.services, "default", world.request(**changes))
