"""The self-test from the worker's side, with children that stand in for good and bad installations."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.progress import PhaseProgress, Resumed
from app.domain.worker import SelfTest, WorkerCapabilities
from app.settings import Settings
from worker.devices import CPU
from worker.fitness import OTHER_BITS, Fitness
from worker.processes import Entry, Launcher
from worker.selftesting import ACROSS_PROCESSES, COMPLETES, SelfTesting

Try = Callable[..., Fitness]


@pytest.fixture(name="tried")
def _tried(launcher: Launcher, tmp_path: Path) -> Try:
    """Run the self-test with children that run this entry of `fake_engine`; without one: that find nothing wrong."""

    def tried(entry: Entry | None = None) -> Fitness:
        fitness, settings = Fitness(), Settings(data_dir=tmp_path)
        each = Launcher(entry=entry, preload=[]) if entry else launcher
        SelfTesting(settings, each, CPU, fitness, worker="worker-test", stopping=threading.Event()).run()
        assert list(settings.work_dir().iterdir()) == [], "it leaves nothing behind"
        return fitness

    return tried


@pytest.fixture(name="engine")
def _engine(launcher: Launcher) -> Iterator[Any]:
    del launcher  # it made the module importable
    import fake_engine

    return fake_engine


def test_what_holds_is_told_with_the_bits_of_two_processes(tried: Try) -> None:
    result = tried().result
    assert result is not None
    assert {fact.name: fact.holds for fact in result.facts} == {
        "frozen_weights_stay_still": True,
        ACROSS_PROCESSES: True,
    }
    assert (result.refusal(), result.resume_fidelity, result.versions) == (None, "exact", {"keras": "3"})


def test_what_held_is_not_tried_again_at_the_next_start(tried: Try, engine: Any) -> None:
    first = tried().result
    assert tried(engine.crashing).result == first


def test_what_failed_is_tried_again_at_the_next_start(tried: Try, engine: Any) -> None:
    assert tried(engine.unfit).refusal()
    assert tried().refusal() is None


def test_a_worker_whose_frozen_weights_move_refuses_to_train_and_says_why(tried: Try, engine: Any) -> None:
    with capture_logs() as logs:
        fitness = tried(engine.unfit)
    refusal = fitness.refusal()
    assert refusal == "its self-test failed: frozen_weights_stay_still (2 of 2 arrays)"
    assert {"log_level": "error", "event": "this worker takes on no trainings", "because": refusal} in logs
    told = fitness.announced(WorkerCapabilities(queues=["cpu", "prepare", "gpu"], devices=["cpu"]))
    assert (told.queues, told.refuses_training) == (["prepare"], refusal)


def test_a_worker_whose_bits_differ_trains_and_resumes_with_tolerance(tried: Try, engine: Any) -> None:
    fitness = tried(engine.undetermined)
    told = fitness.announced(WorkerCapabilities(queues=["cpu"], devices=["cpu"]))
    assert (told.queues, told.refuses_training, told.resume_fidelity) == (["cpu"], None, "tolerance")
    assert told.self_test is not None
    (fact,) = told.self_test.failed("determinism")
    assert fact.name == ACROSS_PROCESSES


@pytest.mark.parametrize(
    ("entry", "words"), [("refusing", "1 frozen variables moved"), ("crashing", "The process crashed (SIGILL)")]
)
def test_a_self_test_that_does_not_get_through_is_a_refusal(tried: Try, engine: Any, entry: str, words: str) -> None:
    refusal = tried(getattr(engine, entry)).refusal()
    assert refusal is not None
    assert f"{COMPLETES} ({words}" in refusal


@pytest.mark.parametrize("entry", ["ended", "short_of_memory"])
def test_what_ends_by_chance_tells_nothing(tried: Try, engine: Any, entry: str) -> None:
    fitness = tried(getattr(engine, entry))
    assert (fitness.result, fitness.refusal()) == (None, None)


def test_a_worker_that_refuses_leaves_the_job_to_others(shop: Any, tried: Try, engine: Any) -> None:
    job_id = shop.submit("succeed")
    unfit = dataclasses.replace(shop.supervisor, fitness=tried(engine.unfit))
    unfit.train(job_id)
    assert (shop.get(job_id).status, shop.get(job_id).attempt.number) == ("queued", 0)
    dataclasses.replace(shop.supervisor, fitness=tried()).train(job_id)
    assert shop.get(job_id).status == "succeeded"


def test_a_job_on_a_worker_whose_bits_differ_promises_no_exact_resume(shop: Any, tried: Try, engine: Any) -> None:
    told = {}
    for name, fitness in (("other bits", tried(engine.undetermined)), ("exact", tried())):
        job_id = shop.submit("count")
        dataclasses.replace(shop.supervisor, fitness=fitness).train(job_id)
        assert shop.get(job_id).status == "succeeded"
        told[name] = shop.get(job_id).resume_fidelity
    assert told == {"exact": "exact", "other bits": "tolerance"}


def test_what_a_resumed_job_is_told_says_why_it_is_not_exact(tried: Try, engine: Any) -> None:
    place = PhaseProgress(index=1, name="head", epoch=1, epochs=1)
    resumed = Resumed(phase=place, step=3, fidelity="exact", differences=[])
    assert tried(engine.undetermined).promised(resumed) == resumed.model_copy(
        update={"fidelity": "tolerance", "differences": [OTHER_BITS]}
    )
    assert tried().promised(resumed) == resumed
    assert Fitness().promised(resumed) == resumed


def test_a_gpu_promises_no_exact_resume_even_where_bits_agree() -> None:
    result = SelfTest(ran_at=0, seconds=1, device="NVIDIA H200", versions={}, facts=[])
    assert (result.refusal(), result.resume_fidelity) == (None, "tolerance")


def test_a_worker_that_stops_does_not_wait_for_its_self_test(launcher: Launcher, tmp_path: Path) -> None:
    stopping, fitness = threading.Event(), Fitness()
    stopping.set()
    SelfTesting(Settings(data_dir=tmp_path), launcher, CPU, fitness, worker="worker-test", stopping=stopping).run()
    assert fitness.result is None
