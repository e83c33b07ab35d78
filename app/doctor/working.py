"""Whether work is done: broker, workers, queues, devices, clocks."""

import time
from collections.abc import Mapping

from app.doctor.finding import Finding, ok, problem, warning
from app.domain.worker import WorkerInfo
from app.queue import inspect_broker
from app.services import health, tallies, workers
from app.services.context import Services
from app.standalone.programs import count_gpus
from app.storage.database import time_of

CLOCK_SECONDS = 2.0
"""Clocks that differ by more confuse people who compare logs; leases know the database's clock alone."""


def broker_reached(services: Services) -> Finding:
    """Whether it answers."""
    found = health.broker(services)
    if found.ok:
        return ok("broker", "answers")
    advice = "Start it (thaw up starts its own), and check THAW_REDIS_URL."
    return problem("broker", found.detail, advice)


def broker_policy(services: Services) -> Finding:
    """Whether it refuses what it has no room for, rather than throw something away."""
    found = inspect_broker(services.settings)
    shown = f"{found.described}, maxmemory-policy {found.policy or 'not told'}"
    if found.policy is None:
        return warning("broker policy", shown, "It does not let this user see its settings: make sure of noeviction.")
    if found.policy == "noeviction":
        return ok("broker policy", shown)
    return problem("broker policy", shown, "Set maxmemory-policy to noeviction: an evicted queue makes jobs wait.")


def broker_persistence(services: Services) -> Finding:
    """Whether hints survive its restart, and whether it can write them down."""
    found, seconds = inspect_broker(services.settings), services.settings.ring_again_seconds
    if found.failing:
        advice = "Check its disk: while it cannot save, it may refuse hints."
        return problem("broker persistence", f"failing: {', '.join(found.failing)}", advice)
    if found.append_only:
        return ok("broker persistence", "append-only file")
    advice = f"Set appendonly to yes; without it, jobs wait up to {seconds:.0f} s longer after its restart."
    return warning("broker persistence", "no append-only file", advice)


def clock(services: Services) -> Finding:
    """How far this machine's clock is from the database's."""
    with services.db.read() as session:
        time_of(session)  # the connection is made
        before, there = time.time(), time_of(session)
    difference = (before + time.time()) / 2 - there
    found = f"this machine is {abs(difference):.2f} s {'ahead of' if difference > 0 else 'behind'} the database"
    if abs(difference) <= CLOCK_SECONDS:
        return ok("clock", found)
    return warning("clock", found, "Synchronize both (NTP). Leases are safe, but logs and times disagree.")


def live_workers(services: Services) -> Finding:
    """Who is there, and who of them refuses to train."""
    live = workers.live(services)
    if not live:
        return warning("workers", "none is live", "Start one: thaw up, or python -m worker --queues cpu,prepare.")
    unfit = [worker for worker in live if worker.refuses_training]
    found = "; ".join(_described(worker) for worker in live)
    if unfit:
        advice = "Make room on its disk, or compare its Keras and TensorFlow with those that Thaw is made for."
        return warning("workers", f"{found}. {unfit[0].id} refuses to train: {unfit[0].refuses_training}", advice)
    return ok("workers", f"{len(live)} live: {found}")


def _described(worker: WorkerInfo) -> str:
    return f"{worker.id} ({'draining' if worker.draining else ', '.join(worker.queues)})"


def queues(services: Services) -> Finding:
    """Whether something waits in a queue that nobody serves, or whose workers all refuse to train."""
    live = workers.live(services)
    served = {queue for worker in live for queue in worker.queues}
    waiting = tallies.waiting(services)
    alone = {name: count for name, count in waiting.items() if count and name not in served}
    if alone:
        advice = f"Start a worker for it: python -m worker --queues {','.join(alone)}"
        return problem("queues", f"nobody serves {_counted(alone)}", advice)
    taken = {queue for queue in served if any(workers.takes(worker, queue) for worker in live)}
    refused = {name: count for name, count in waiting.items() if count and name not in taken}
    if refused:
        advice = "Do what `workers` advises, or start one on another machine."
        return problem("queues", f"all workers refuse to train {_counted(refused)}", advice)
    missing = [
        name
        for name, there in (("prepare", "prepare" in served), ("cpu", bool(served & workers.TRAINING)))
        if not there
    ]
    shown = ", ".join(f"{name} {count:,}" for name, count in waiting.items() if count) or "nothing waits"
    if missing:
        advice = f"Jobs will wait there until a worker serves it: python -m worker --queues {','.join(missing)}"
        return warning("queues", f"{shown}; nobody serves {', '.join(missing)}", advice)
    return ok("queues", shown)


def _counted(waiting: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} in '{name}'" for name, count in waiting.items())


def devices(services: Services) -> Finding:
    """Whether GPUs of this machine lie idle."""
    here, live = count_gpus(), workers.live(services)
    used = sorted({device for worker in live for device in worker.devices})
    found = f"{here} NVIDIA GPUs on this machine; live workers compute on {', '.join(used) or 'nothing'}"
    if here and not any("gpu" in worker.queues for worker in live):
        return warning("devices", found, "No live worker serves 'gpu': start one with --queues gpu.")
    return ok("devices", found)
