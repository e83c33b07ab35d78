"""The self-test from the worker's side: once for each combination of versions, device and engine, in the background.

    known from an earlier start?  --yes-->  announced at once
        '--no--> child: all facts -> child: the same job again -> their bits compared -> kept, announced

What crashes or fails is a fact that does not hold. What does not end in time, or is ended from outside, tells nothing:
then the worker trains, as its jobs have proofs of their own, and the next start tries again.
"""

import hashlib
import json
import platform
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import structlog
from pydantic import ValidationError

from app.domain.errors import Failure, PlatformError
from app.domain.worker import Fact, SelfTest
from app.settings import Settings
from worker import folders
from worker.devices import Device
from worker.engine import durable
from worker.fitness import Fitness
from worker.messages import Alive, Failed, Outcome, Ready, Reported, Tested
from worker.orders import Order, SelfTestOrder
from worker.processes import ChildProcess, Launcher
from worker.sweeper import version

PATIENCE_SECONDS = 300.0
"""For each of the two processes; a few seconds are usual."""
COMPLETES = "the_self_test_completes"
ACROSS_PROCESSES = "same_seed_same_bits_across_processes"
_PACKAGES = ("thaw", "keras", "tensorflow", "numpy")

_log = structlog.get_logger(__name__)


class SelfTesting(threading.Thread):
    """Finds out whether this worker is fit to train on a device, and tells its `Fitness`."""

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher,
        device: Device,
        fitness: Fitness,
        *,
        worker: str,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name="self-test", daemon=True)
        self._worker = worker
        self._settings = settings
        self._launcher = launcher
        self._device = device
        self._fitness = fitness
        self._stopping = stopping

    def run(self) -> None:
        """Do it; never raises, as nothing else depends on this thread."""
        try:
            path = self._settings.selftest_dir() / f"{_key(self._device)}.json"
            result = _known(path) or self._tried(path)
        except (OSError, PlatformError) as error:
            _log.warning("self-test could not run", error=repr(error))
            return
        if result is not None:
            self._fitness.settle(result)
            _tell(result)

    def _tried(self, path: Path) -> SelfTest | None:
        started = time.monotonic()
        outcomes = [self._child(SelfTestOrder())]
        if isinstance(outcomes[0], Tested):
            outcomes.append(self._child(SelfTestOrder(again=True)))
        if outcomes[-1] is None:
            return None
        result = self._judged(outcomes, seconds=time.monotonic() - started)
        if all(fact.holds for fact in result.facts if fact.kind != "keras"):
            _keep(path, result)  # what failed is tried again at the next start
        return result

    def _judged(self, outcomes: "list[Outcome | None]", *, seconds: float) -> SelfTest:
        tested = [outcome for outcome in outcomes if isinstance(outcome, Tested)]
        facts = [fact for outcome in tested for fact in outcome.facts]
        last = outcomes[-1]
        if len(tested) > 1:
            facts.append(_compared(tested[0].bits, tested[1].bits))
        elif isinstance(last, Failed):
            message = last.failure.message[:500]
            facts.append(Fact(name=COMPLETES, kind="freezing", holds=False, measured=message))
        return SelfTest(
            ran_at=time.time(),
            seconds=round(seconds, 2),
            device=tested[0].device if tested else self._device.name,
            versions=tested[0].versions if tested else {},
            facts=facts,
        )

    def _child(self, task: SelfTestOrder) -> Outcome | None:
        """What a process says or, by the way it ends, shows; `None` if that tells nothing."""
        with folders.attempt_folder(self._settings.work_dir(), f"selftest-{self._worker}") as folder:
            order = Order(
                task=task,
                folder=folder,
                environment=self._device.environment(),
                start_method=self._settings.gpu_start_method if self._device.gpu else "forkserver",
            )
            with closing(self._launcher.start(order)) as child:
                return self._heard(child)

    def _heard(self, child: ChildProcess) -> Outcome | None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._stopping.is_set() and time.monotonic() < deadline:
            ended = child.exit_code() is not None
            said = [each for each in child.receive(timeout=0.2) if not isinstance(each, Ready | Reported | Alive)]
            if said:
                return None if isinstance(said[-1], Failed) and _by_chance(said[-1].failure) else said[-1]
            if ended:
                return _end(child.exit_code() or 0)
        if not self._stopping.is_set():
            _log.warning("self-test not over in time", seconds=PATIENCE_SECONDS)
        return None


# === What ends mean ===


def _end(exit_code: int) -> Failed | None:
    """A process that ended without a word: crashed, or ended by somebody, which tells nothing."""
    _log.warning("self-test ended without a result", exit_code=exit_code)
    if exit_code >= 0 or -exit_code in (signal.SIGKILL, signal.SIGTERM):
        return None
    message = f"The process crashed ({signal.Signals(-exit_code).name})."
    return Failed(failure=PlatformError(message, code="training_process_crashed").failure())


def _by_chance(failure: Failure) -> bool:
    """Whether it says more about the moment than about what is installed: no memory, no room."""
    return failure.error_class == "capacity" or failure.code == "storage_full"


def _compared(one: str, other: str) -> Fact:
    measured = "equal digests of all weights" if one == other else f"digests {one[:12]} and {other[:12]}"
    return Fact(name=ACROSS_PROCESSES, kind="determinism", holds=one == other, measured=measured)


def _tell(result: SelfTest) -> None:
    facts = {fact.name: fact.measured for fact in result.failed("freezing", "files", "determinism")}
    refusal = result.refusal()
    if refusal:
        _log.error("this worker takes on no trainings", because=refusal)
    elif facts:
        _log.warning("self-test passed in part; jobs resume with tolerance", failed=facts)
    else:
        _log.info("self-test passed", facts=len(result.facts), seconds=result.seconds, device=result.device)


# === Kept ===


def _key(device: Device) -> str:
    """Names everything that decides the result: versions, engine, device, machine."""
    known = {
        "packages": {package: version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "engine": _engine_digest(),
        "device": device.name,
        "machine": [platform.machine(), _processor()],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _engine_digest() -> str:
    """sha256 over the engine's own code, which the facts are about, too."""
    total = hashlib.sha256()
    folder = Path(durable.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        total.update(path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes())
    return total.hexdigest()


def _processor() -> str:
    """The processor's name, as Linux tells it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _known(path: Path) -> SelfTest | None:
    try:
        return SelfTest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        return None  # of a version that kept other things


def _keep(path: Path, result: SelfTest) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable.write_text(path, result.model_dump_json(indent=1))
