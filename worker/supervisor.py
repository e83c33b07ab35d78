"""The supervisor: carries out hints, in threads, without TensorFlow. What it claims is an `Attempt`.

An error of the supervisor itself fails the job with class `platform`; the worker goes on.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from app.services import claims
from app.services.context import Services
from worker import room
from worker.attempt import Attempt
from worker.bundles import BundleCache
from worker.devices import Device, DevicePool
from worker.duties import Duty, Registration, Training, Validation
from worker.fitness import Fitness
from worker.lease import UNREACHABLE
from worker.leaving import Stopping
from worker.pairing import Pairing
from worker.processes import Launcher

_DONE = frozenset({"succeeded", "failed", "cancelled", "paused"})
"""Endings after which a worker goes on with the next job. After others it would get the same one again."""

SomeClaim = TypeVar("SomeClaim")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Supervisor:
    """Carries out hints. Everything in it is shared by all threads of the worker."""

    services: Services
    worker: str
    """The name of this worker, as jobs show it."""
    launcher: Launcher
    cache: BundleCache
    devices: DevicePool
    stopping: Stopping
    pairing: Pairing
    fitness: Fitness = field(default_factory=Fitness)
    draining: threading.Event = field(default_factory=threading.Event)
    """Set: what runs goes on, nothing else is claimed."""
    hurrying: threading.Event = field(default_factory=threading.Event)
    """Set after `stopping`: what runs is given back as it was kept last."""
    running: set[Attempt] = field(default_factory=set)
    """What has not ended."""

    def train(self, job_id: str) -> None:
        """Train the job that is next, be it another one, if a device and room are free and this worker is fit to.

        Then the one after it, and so on: hints are for workers that have nothing to do, as the broker may lose them.
        """
        with self.devices.borrow() as device:
            if device is None:
                _log.info("no device is free, the job will be rung for again", hint=job_id)
                return
            hint: str | None = job_id
            while self._train_next(device, hint):
                hint = None

    def _train_next(self, device: Device, hint: str | None) -> bool:
        """Whether to go on with the line after this."""
        refusal = self.fitness.refusal() or self.pairing.refusal() or room.refusal(self.services)
        if refusal is not None:
            _log.error("training refused, the job will be rung for again", hint=hint, because=refusal)
            return False
        ending = self._carry_out(
            lambda: claims.claim_next(self.services, hint, worker=self.worker),
            lambda claim: Training(self.services, claim, self.cache, device, self.fitness, self.pairing),
            hint=hint,
        )
        return ending in _DONE

    def register(self, model_id: str) -> None:
        """Check a model file, if nobody else does."""
        self._carry_out(
            lambda: claims.claim_model(self.services, model_id, worker=self.worker),
            lambda claim: Registration(self.services, claim),
            hint=model_id,
        )

    def validate(self, dataset_id: str) -> None:
        """Check a data file, if nobody else does."""
        self._carry_out(
            lambda: claims.claim_dataset(self.services, dataset_id, worker=self.worker),
            lambda claim: Validation(self.services, claim),
            hint=dataset_id,
        )

    def _carry_out(
        self, claim: Callable[[], SomeClaim | None], duty_of: Callable[[SomeClaim], Duty], *, hint: str | None
    ) -> str | None:
        """Claim it and see it through; returns how it ended. Never raises: the thread belongs to the next task."""
        if self.stopping.is_set() or self.draining.is_set():
            return None
        try:
            claimed = claim()
            if claimed is None:
                _log.debug("stale hint", hint=hint)
                return None
            return self._see_through(duty_of(claimed))
        except UNREACHABLE as error:
            # Before a claim nothing is lost; after it, the lease runs out and the sweeper takes it back.
            _log.warning("database not reached, the sweeper will ring again", hint=hint, error=repr(error))
        except Exception:  # noqa: BLE001 (the edge of the thread, which belongs to the next task)
            _log.exception("attempt given up", hint=hint)
        return None

    def _see_through(self, duty: Duty) -> str:
        attempt = Attempt(
            self.services,
            duty,
            worker=self.worker,
            launcher=self.launcher,
            stopping=self.stopping,
            hurrying=self.hurrying,
        )
        self.running.add(attempt)
        try:
            return attempt.run()
        finally:
            self.running.discard(attempt)

    def abandon(self) -> None:
        """Kill what runs and give back what has not ended, all at once: the worker leaves, whatever hangs."""
        threads = [threading.Thread(target=attempt.abandon, daemon=True) for attempt in list(self.running)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
