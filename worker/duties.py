"""Duties: the three things that a worker does, each with its claim, its order for the child, and its last write.

training        job       -> results, a new model     limits: the device, training_memory_bytes, the job's time
registration    model     -> its canonical form       limits: preparation_timeout_seconds, memory
                (checked from its file, built by its name, or restored from a checkpoint)
validation      dataset   -> its canonical form       the same
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.domain import names, overtime
from app.domain.artifacts import Artifact, Bundle
from app.domain.errors import Failure, PlatformError
from app.domain.file import File
from app.domain.progress import Progress
from app.queue import TaskName
from app.services import failing, models, pairing, reports
from app.services.claims import Allowance, Claim, DatasetClaim, JobClaim, ModelClaim
from app.services.context import Services
from app.storage.artifacts import Check
from worker import bundles, memory, resumption
from worker.bundles import BundleCache
from worker.child import RUN
from worker.devices import CPU, Device
from worker.fitness import Fitness
from worker.messages import Outcome, Registered, Trained, Validated
from worker.orders import BuildOrder, Order, RegisterOrder, RestoreOrder, TrainOrder, ValidateOrder
from worker.pairing import Pairing
from worker.watch import Limits

CANONICAL = "canonical"
RESULTS = "results"
_PREPARATION_SHARE = 0.75
"""Of the machine's memory, for the check of one file, where no limit is set."""


class Duty(Protocol):
    """What the supervisor needs to know of a task."""

    @property
    def task(self) -> TaskName:
        """Which kind it is."""

    @property
    def claim(self) -> Claim:
        """What makes it ours."""

    @property
    def limits(self) -> Limits:
        """What its process may use."""

    def order(self, folder: Path, stack: ExitStack, check: Check) -> Order:
        """Fetch what the process needs, held by `stack`, and say what it is to do in `folder`.

        `check` is called again and again meanwhile and may raise, here and in `collect`.
        """

    def report(self, progress: Sequence[Progress], checkpoints: Mapping[str, Artifact]) -> None:
        """Write down what the process reported."""

    def collect(self, outcome: Outcome, folder: Path, check: Check) -> Callable[[], object]:
        """Upload what the process made; returns the one write that publishes it."""

    def fail(self, failure: Failure) -> str:
        """Write down that it failed, and what follows; returns it in a word."""

    def cancel(self) -> None:
        """Write down that it was cancelled."""


@dataclass(frozen=True)
class Training:
    """Train a job."""

    services: Services
    claim: JobClaim
    cache: BundleCache
    device: Device
    fitness: Fitness
    pairing: Pairing
    task: TaskName = "train"

    @property
    def limits(self) -> Limits:
        """As long as the job's budget and deadline allow, if it goes on."""
        settings = self.services.settings
        seconds, out_of_time = _time_left(self.claim.allowance)
        return Limits(
            seconds=seconds,
            memory_bytes=settings.training_memory_bytes,
            stall_seconds=settings.stall_seconds,
            out_of_time=out_of_time,
        )

    def order(self, folder: Path, stack: ExitStack, check: Check) -> Order:
        """Source and data come from the cache, and stay there while it trains; a checkpoint into its own folder."""
        if not resumption.place(self.claim.checkpoints, folder / RUN, self.services.store, check=check):
            self.pairing.ask()
        with self.pairing.doubted():
            source, data = (
                stack.enter_context(self.cache.folder(_present(bundle), scratch=folder, check=check))
                for bundle in (self.claim.model.canonical, self.claim.dataset.canonical)
            )
        return Order(
            task=TrainOrder(
                spec=self.claim.job.spec,
                source=source,
                data=data,
                features=self.services.settings.features_dir(),
                features_bytes=self.services.settings.features_bytes,
                ancestry=self.claim.ancestry,
            ),
            folder=folder,
            environment=self.device.environment(),
            start_method=self.services.settings.gpu_start_method if self.device.gpu else "forkserver",
        )

    def report(self, progress: Sequence[Progress], checkpoints: Mapping[str, Artifact]) -> None:
        """Events, metrics and checkpoints."""
        told = [self.fitness.promised(each) for each in progress]
        reports.progress(self.services, self.claim, told, checkpoints=checkpoints)

    def collect(self, outcome: Outcome, folder: Path, check: Check) -> Callable[[], object]:
        """The results for people and the canonical model for later jobs."""
        if not isinstance(outcome, Trained):
            raise _unfitting(outcome)
        store, run = self.services.store, folder / RUN
        artifacts = bundles.upload(run, RESULTS, store, check=check)
        canonical = bundles.upload(run, CANONICAL, store, check=check)
        return lambda: reports.succeed_job(
            self.services,
            self.claim,
            artifacts=artifacts,
            canonical=canonical,
            info=outcome.info,
            report=outcome.report,
        )

    def fail(self, failure: Failure) -> str:
        """The job failed, is tried again or set aside, depending on why."""
        return failing.attempt_failed(self.services, self.claim, failure)

    def cancel(self) -> None:
        """The job is cancelled."""
        reports.cancel_job(self.services, self.claim)


@dataclass(frozen=True)
class Registration:
    """Check a model file, or build a model by name."""

    services: Services
    claim: ModelClaim
    task: TaskName = "register"

    @property
    def limits(self) -> Limits:
        """Bounded time and memory: the file is a stranger's."""
        return _preparation_limits(self.services)

    def order(self, folder: Path, stack: ExitStack, check: Check) -> Order:  # noqa: ARG002 (what it needs lies in its own folder)
        """The upload, if there is one, lies in the attempt's folder."""
        return _preparation(self._task(folder, check), folder, self.limits)

    def _task(self, folder: Path, check: Check) -> RegisterOrder | BuildOrder | RestoreOrder:
        model, most = self.claim.model, self.services.settings.max_model_parameters
        if self.claim.file is not None:
            upload = _fetch(self.services, self.claim.file, folder, check)
            return RegisterOrder(upload=upload, options=model.options, max_parameters=most)
        if model.reference is None:
            message = f"Model '{model.id}' has neither a file nor a name to be registered from."
            raise PlatformError(message, code="internal_error")
        if names.is_checkpoint(model.reference):
            return self._restoring(model.reference, folder, check)
        return BuildOrder(
            reference=model.reference,
            options=model.options,
            max_parameters=most,
            max_bytes=self.services.settings.max_upload_bytes,
        )

    def _restoring(self, checkpoint_id: str, folder: Path, check: Check) -> RestoreOrder:
        found = models.restorable(self.services, self.claim.project, checkpoint_id)
        weights, source = folder / "weights.safetensors", folder / "source"
        source.mkdir()
        with pairing.doubted(self.services):
            self.services.store.fetch(found.weights.sha256, weights, check=check)
            for artifact in _present(found.source.canonical):
                self.services.store.fetch(artifact.sha256, source / artifact.name, check=check)
        return RestoreOrder(
            checkpoint_id=checkpoint_id,
            spec=found.spec,
            source=source,
            weights=weights,
            data=found.data,
            options=self.claim.model.options,
        )

    def report(self, progress: Sequence[Progress], checkpoints: Mapping[str, Artifact]) -> None:
        """A check reports nothing."""

    def collect(self, outcome: Outcome, folder: Path, check: Check) -> Callable[[], object]:
        """The canonical model."""
        if not isinstance(outcome, Registered):
            raise _unfitting(outcome)
        canonical = bundles.upload(folder / RUN, CANONICAL, self.services.store, check=check)
        return lambda: reports.finish_model(self.services, self.claim, info=outcome.info, canonical=canonical)

    def fail(self, failure: Failure) -> str:
        """The model cannot be used."""
        reports.fail_model(self.services, self.claim, failure)
        return "failed"

    def cancel(self) -> None:
        """Nobody can ask for that."""


@dataclass(frozen=True)
class Validation:
    """Check a data file."""

    services: Services
    claim: DatasetClaim
    task: TaskName = "validate"

    @property
    def limits(self) -> Limits:
        """Bounded time and memory: the file is a stranger's."""
        return _preparation_limits(self.services)

    def order(self, folder: Path, stack: ExitStack, check: Check) -> Order:  # noqa: ARG002 (what it needs lies in its own folder)
        """The upload lies in the attempt's folder."""
        task = ValidateOrder(
            upload=_fetch(self.services, self.claim.file, folder, check),
            options=self.claim.dataset.options,
            max_unpacked_bytes=self.services.settings.max_unpacked_bytes,
        )
        return _preparation(task, folder, self.limits)

    def report(self, progress: Sequence[Progress], checkpoints: Mapping[str, Artifact]) -> None:
        """A check reports nothing."""

    def collect(self, outcome: Outcome, folder: Path, check: Check) -> Callable[[], object]:
        """The canonical dataset."""
        if not isinstance(outcome, Validated):
            raise _unfitting(outcome)
        canonical = bundles.upload(folder / RUN, CANONICAL, self.services.store, check=check)
        return lambda: reports.finish_dataset(
            self.services, self.claim, info=outcome.info, preview=outcome.preview, canonical=canonical
        )

    def fail(self, failure: Failure) -> str:
        """The dataset cannot be used."""
        reports.fail_dataset(self.services, self.claim, failure)
        return "failed"

    def cancel(self) -> None:
        """Nobody can ask for that."""


def _time_left(allowance: Allowance) -> tuple[float | None, Failure | None]:
    """Seconds until the first limit is reached, and what it is called."""
    limits = [(allowance.run_seconds, overtime.OF_ATTEMPTS), (allowance.until_deadline_seconds, overtime.OF_DEADLINE)]
    known = [(seconds, failure) for seconds, failure in limits if seconds is not None]
    return min(known, key=lambda limit: limit[0]) if known else (None, None)


def _present(bundle: Bundle | None) -> Bundle:
    if bundle is None:
        message = "A job was queued whose model or dataset is not ready."
        raise PlatformError(message, code="internal_error")
    return bundle


def _unfitting(outcome: Outcome) -> PlatformError:
    return PlatformError(
        f"The process answered something else than it was asked: {outcome.type}", code="internal_error"
    )


def _fetch(services: Services, file: File, folder: Path, check: Check) -> Path:
    """The upload under a name that cannot lead elsewhere; its ending may say what it is."""
    path = folder / "input" / (re.sub(r"[^A-Za-z0-9._-]", "_", file.filename)[-100:].lstrip(".") or "upload")
    path.parent.mkdir()
    with pairing.doubted(services):
        services.store.fetch(file.blob.sha256, path, check=check)
    return path


def _preparation(
    task: RegisterOrder | BuildOrder | RestoreOrder | ValidateOrder, folder: Path, limits: Limits
) -> Order:
    return Order(task=task, folder=folder, environment=CPU.environment(), memory_bytes=limits.memory_bytes)


def _preparation_limits(services: Services) -> Limits:
    settings = services.settings
    allowed = settings.training_memory_bytes or int(memory.machine_bytes() * _PREPARATION_SHARE)
    return Limits(seconds=settings.preparation_timeout_seconds, memory_bytes=allowed)
