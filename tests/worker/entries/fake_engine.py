"""Stands in for the engine in child processes: the name of a job's first phase says what it does."""

import ctypes
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from app.domain.dataset import SPLITS, DatasetInfo, SplitInfo
from app.domain.errors import CutError, ProofError
from app.domain.model import LayerRow, SourceInfo
from app.domain.progress import (
    CheckpointWritten,
    EpochFinished,
    FreezeProof,
    PhaseFinished,
    PhaseProgress,
    Resumed,
    StageStarted,
    StepFinished,
    WeightsKept,
)
from app.domain.report import Evaluation, Interval, PhaseReport, Report, SourceReceipt
from app.domain.worker import Fact
from worker import child, messages
from worker.child import PipeReporter
from worker.engine.reporter import Reporter, TrainingStopped
from worker.messages import Outcome, Registered, Stopped, Tested, Trained, Validated
from worker.orders import Order, RegisterOrder, SelfTestOrder, TrainOrder, ValidateOrder

DIGEST = "0" * 64


def entry(connection: Connection, order: Order) -> None:
    child.main(connection, order, work=work)


def work(order: Order, reporter: Reporter) -> Outcome:
    if isinstance(order.task, TrainOrder):
        return BEHAVIOURS[order.task.spec.schedule[0].name or ""](order, reporter)
    if isinstance(order.task, SelfTestOrder):
        return self_tested(order.task, holds=True, bits="same")
    return BEHAVIOURS[order.task.upload.name.partition(".")[0]](order, reporter)


def self_tested(task: SelfTestOrder, *, holds: bool, bits: str) -> Tested:
    """A self-test of one fact."""
    fact = Fact(name="frozen_weights_stay_still", kind="freezing", holds=holds, measured="2 of 2 arrays")
    return Tested(facts=[] if task.again else [fact], bits=bits, device="cpu", versions={"keras": "3"})


def _entry_of_self_test(behave: Callable[[SelfTestOrder], Tested]) -> Callable[[Connection, Order], None]:
    def work_on(order: Order, _reporter: Reporter) -> Outcome:
        assert isinstance(order.task, SelfTestOrder)
        return behave(order.task)

    return lambda connection, order: child.main(connection, order, work=work_on)


def unfit(connection: Connection, order: Order) -> None:
    """Where frozen weights move."""
    _entry_of_self_test(lambda task: self_tested(task, holds=False, bits="same"))(connection, order)


def undetermined(connection: Connection, order: Order) -> None:
    """Where each process gives other bits."""
    _entry_of_self_test(lambda task: self_tested(task, holds=True, bits=str(os.getpid())))(connection, order)


def refusing(connection: Connection, order: Order) -> None:
    """Where a job's own proof fails."""

    def behave(_task: SelfTestOrder) -> Tested:
        message = "1 frozen variables moved in phase 'head'"
        raise ProofError(message)

    _entry_of_self_test(behave)(connection, order)


def crashing(connection: Connection, order: Order) -> None:
    """Where the first operation is an illegal instruction."""
    _entry_of_self_test(lambda _task: os.kill(os.getpid(), signal.SIGILL))(connection, order)  # type: ignore[arg-type, return-value]


def ended(connection: Connection, order: Order) -> None:
    """Where somebody kills it."""
    _entry_of_self_test(lambda _task: os.kill(os.getpid(), signal.SIGKILL))(connection, order)  # type: ignore[arg-type, return-value]


def short_of_memory(connection: Connection, order: Order) -> None:
    """Where there is no memory at the moment."""

    def behave(_task: SelfTestOrder) -> Tested:
        raise MemoryError

    _entry_of_self_test(behave)(connection, order)


def source_info() -> SourceInfo:
    return SourceInfo(
        format="keras",
        keras_version="3",
        class_name="Sequential",
        name="fake",
        input_shape=[None, 2],
        input_dtype="float32",
        output_shape=[None, 2],
        parameters=12,
        layers=[
            _layer(0, "input", "InputLayer", 0),
            _layer(1, "hidden", "Dense", 6),
            _layer(2, "output", "Dense", 6),
        ],
        rescale=None,
        digest=DIGEST,
    )


def _layer(index: int, path: str, class_name: str, parameters: int) -> LayerRow:
    return LayerRow(
        index=index,
        path=path,
        class_name=class_name,
        output_shape=[None, 2],
        parameters=parameters,
        has_weights=parameters > 0,
        legal_cut=True,
    )


def succeed(order: Order, reporter: Reporter) -> Outcome:
    """One phase of one epoch of three steps."""
    assert isinstance(order.task, TrainOrder)
    spec = order.task.spec
    phase = PhaseProgress(index=1, name=spec.schedule[0].name or "", epoch=1, epochs=1)
    reporter.report(StageStarted(stage="training"))
    for step in (1, 2, 3):
        reporter.check()
        reporter.report(StepFinished(phase=phase, step=step, steps=3))
    reporter.report(EpochFinished(phase=phase, step=3, metrics={"loss": 0.5}))
    _write(order, "run/checkpoints/1.safetensors", b"weights")
    proof = _proof(phase.name)
    reporter.report(
        PhaseFinished(phase=phase, stopped_early=False, proof=proof, checkpoint="checkpoints/1.safetensors")
    )
    _write(order, "run/results/model.keras", f"model of attempt in {order.folder.name}".encode())
    _write(order, "run/results/report.json", b"{}")
    _write(order, "run/canonical/config.json", b"{}")
    report = Report(
        task="binary",
        labels=None,
        spec=spec,
        cut_layer="dense",
        dataset_digest=DIGEST,
        source=SourceReceipt(model_digest_before=DIGEST, model_digest_after=DIGEST, unchanged=True),
        phases=[
            PhaseReport(
                name=phase.name,
                epochs_run=1,
                stopped_early=False,
                trainable_parameters=1,
                frozen_parameters=0,
                seconds=0.1,
                proof=proof,
            )
        ],
        test=Evaluation(examples=1, loss=0.5, accuracy=Interval(value=1, low=0.2, high=1)),
        best_validation={"val_loss": 0.5},
        seconds={"training": 0.1},
        versions={},
        device="cpu",
        parameters=1,
    )
    return Trained(info=source_info(), report=report)


def _proof(phase: str) -> FreezeProof:
    return FreezeProof(
        phase=phase,
        frozen_variables=0,
        frozen_digest_before=DIGEST,
        frozen_digest_after=DIGEST,
        trained_variables=1,
        moved_variables=1,
        held=True,
    )


def succeed_slowly(order: Order, reporter: Reporter) -> Outcome:
    """In half a second."""
    for _ in range(50):
        reporter.check()
        time.sleep(0.01)
    return succeed(order, reporter)


def train_for_ever(_order: Order, reporter: Reporter) -> Outcome:
    """Steps of 10 ms until somebody ends it."""
    phase = PhaseProgress(index=1, name="forever", epoch=1, epochs=1)
    step = 0
    while True:
        step += 1
        reporter.check()
        time.sleep(0.01)
        if step % 20 == 1:
            reporter.report(StepFinished(phase=phase, step=step, steps=10**9))


def count(
    order: Order,
    reporter: Reporter,
    *,
    fault: Callable[[Order, Reporter], Outcome] | None = None,
    steps: int = 100,
) -> Outcome:
    """100 steps of 10 ms, of which a checkpoint is kept after every tenth, and wherever it is stopped.

    `fault`: what happens after step 25 of the first attempt.
    """
    found = sorted(path for path in order.folder.glob("run/checkpoints/resume-*") if (path / "count").is_file())
    at = int((found[-1] / "count").read_text().split()[0]) if found else 0
    phase = PhaseProgress(index=1, name="count", epoch=1, epochs=1)
    if found:
        reporter.report(Resumed(phase=phase, step=at, fidelity="exact", differences=[]))
    for step in range(at + 1, steps + 1):
        try:
            reporter.check()
        except TrainingStopped as stopped:
            if stopped.over:
                _write(order, "run/checkpoints/last.safetensors", f"weights of step {step - 1}".encode())
                path = "checkpoints/last.safetensors"
                reporter.report(WeightsKept(which="last", phase=phase, step=step - 1, metrics={}, checkpoint=path))
            elif stopped.keep:
                _keep(order, reporter, phase, step - 1, {"asked": 1.0})
            raise
        time.sleep(0.01)
        reporter.report(StepFinished(phase=phase, step=step, steps=steps))
        if step % 10 == 0:
            _keep(order, reporter, phase, step, {})
        if fault and step == 25 and _attempt(order) == 1:
            fault(order, reporter)
    return succeed(order, reporter)


def _attempt(order: Order) -> int:
    number = order.folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 1


def _count_on(*, attempts: int) -> Callable[[Order, Reporter], Outcome]:
    """The first attempts count until somebody ends them."""
    return lambda order, reporter: count(order, reporter, steps=10**9 if _attempt(order) <= attempts else 100)


def _count_until(fault: Callable[[Order, Reporter], Outcome]) -> Callable[[Order, Reporter], Outcome]:
    return lambda order, reporter: count(order, reporter, fault=fault)


def _keep(order: Order, reporter: Reporter, phase: PhaseProgress, step: int, metrics: dict[str, float]) -> None:
    """A checkpoint, and the one before the last is deleted, as the engine does it."""
    there = sorted(order.folder.glob("run/checkpoints/resume-*"))
    number = 1 + max((int(path.name[-6:]) for path in there), default=0)
    folder = f"checkpoints/resume-{number:06d}"
    _write(order, f"run/{folder}/count", f"{step} {order.folder.name}".encode())
    reporter.report(
        CheckpointWritten(
            phase=phase, number=number, step=step, metrics=metrics, folder=folder, files=["count"], fidelity="exact"
        )
    )
    for path in there[:-1]:
        shutil.rmtree(path)


def hang(_order: Order, reporter: Reporter) -> Outcome:
    """One step that never ends, and says nothing."""
    phase = PhaseProgress(index=1, name="hang", epoch=1, epochs=1)
    reporter.report(StepFinished(phase=phase, step=1, steps=2))
    while True:
        time.sleep(1)


def freeze(_order: Order, _reporter: Reporter) -> Outcome:
    """Stopped by the kernel: deaf to everything but SIGKILL."""
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError


def work_silently(order: Order, reporter: Reporter) -> Outcome:
    """Goes on for 2 s without anything to report, as converters and large validation splits do."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        reporter.check()
        time.sleep(0.01)
    return succeed(order, reporter)


def run_out_of_memory(_order: Order, _reporter: Reporter) -> Outcome:
    raise MemoryError


def ignore_everything(order: Order, reporter: Reporter) -> Outcome:
    """One step that never ends, deaf to SIGTERM, with a process of its own beside it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    _write(order, "grandchild", str(pid).encode())
    reporter.report(StageStarted(stage="training"))
    while True:
        time.sleep(1)


def refuse(_order: Order, _reporter: Reporter) -> Outcome:
    message = "Unknown cut layer 'x'."
    raise CutError(message, param="cut")


def raise_error(_order: Order, _reporter: Reporter) -> Outcome:
    return {}["missing"]


def fill_disk(_order: Order, _reporter: Reporter) -> Outcome:
    raise OSError(errno.ENOSPC, "No space left on device")


def need_room(order: Order, reporter: Reporter) -> Outcome:
    """Keeps a checkpoint, then writes 1 MiB, then succeeds."""
    phase = PhaseProgress(index=1, name="roomy", epoch=1, epochs=1)
    _keep(order, reporter, phase, 1, {})
    _write(order, "run/large", bytes(1024**2))
    return succeed(order, reporter)


def crash(_order: Order, _reporter: Reporter) -> Outcome:
    sys.stderr.write("about to read address 0\n")
    ctypes.string_at(0)
    raise AssertionError


def abort(_order: Order, _reporter: Reporter) -> Outcome:
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def be_killed(_order: Order, _reporter: Reporter) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def break_off(order: Order, reporter: Reporter) -> Outcome:
    """Killed in the middle of a message."""
    _begin_message(reporter)
    return be_killed(order, reporter)


def freeze_within(order: Order, reporter: Reporter) -> Outcome:
    """Stopped by the kernel in the middle of a message."""
    _begin_message(reporter)
    return freeze(order, reporter)


def _begin_message(reporter: Reporter) -> None:
    assert isinstance(reporter, PipeReporter)
    os.write(reporter._connection.fileno(), messages.encode(Stopped())[:-5])


def leave(_order: Order, _reporter: Reporter) -> Outcome:
    os._exit(3)


def swallow_memory(_order: Order, reporter: Reporter) -> Outcome:
    """Takes 32 MiB every 20 ms."""
    taken = []
    while True:
        reporter.check()
        taken.append(bytearray(os.urandom(1)) * (32 * 1024**2))
        time.sleep(0.02)


def ask_for_much_memory(_order: Order, _reporter: Reporter) -> Outcome:
    """Asks for 8 GiB and touches nothing of it, so that only a limit of the kernel's can notice."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    if not library.malloc(ctypes.c_size_t(8 * 1024**3)):
        raise MemoryError
    message = "it was given"
    raise ValueError(message)


def finish_and_linger(order: Order, reporter: Reporter) -> Outcome:
    """Succeeds, but a thread keeps the process from ending: it must not, the child ends by force."""
    import threading

    threading.Thread(target=time.sleep, args=(600,)).start()
    return succeed(order, reporter)


def register(order: Order, _reporter: Reporter) -> Outcome:
    assert isinstance(order.task, RegisterOrder)
    _write(order, "run/canonical/config.json", b"{}")
    return Registered(info=source_info())


def validate(order: Order, _reporter: Reporter) -> Outcome:
    assert isinstance(order.task, ValidateOrder)
    _write(order, "run/canonical/dataset.json", b"{}")
    info = DatasetInfo(
        kind="arrays",
        task="binary",
        example_shape=[2],
        dtype="float32",
        value_range=(0, 1),
        classes=["0", "1"],
        splits={name: SplitInfo(examples=10, class_counts={"0": 5, "1": 5}) for name in SPLITS},
        digest=DIGEST,
    )
    return Validated(info=info, preview=[])


def link_to_something(order: Order, reporter: Reporter) -> Outcome:
    """What a process does that somebody has taken over: its result is a link to a file of the service."""
    outcome = succeed(order, reporter)
    path = order.folder / "run" / "results" / "model.keras"
    path.unlink()
    path.symlink_to("/etc/passwd")
    return outcome


def report_foreign_checkpoint(order: Order, reporter: Reporter) -> Outcome:
    """The same with a checkpoint."""
    phase = PhaseProgress(index=1, name="foreign", epoch=1, epochs=1)
    reporter.report(
        PhaseFinished(phase=phase, stopped_early=False, proof=_proof("foreign"), checkpoint="../../../../etc/passwd")
    )
    return succeed(order, reporter)


def _write(order: Order, name: str, data: bytes) -> None:
    path = order.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


BEHAVIOURS: dict[str, Callable[[Order, Reporter], Outcome]] = {
    "succeed": succeed,
    "slow": succeed_slowly,
    "forever": train_for_ever,
    "count": count,
    "count-on": _count_on(attempts=1),
    "count-on-5": _count_on(attempts=5),
    "count-crash": _count_until(crash),
    "count-killed": _count_until(be_killed),
    "count-leave": _count_until(leave),
    "count-full": _count_until(fill_disk),
    "count-memory": _count_until(run_out_of_memory),
    "count-frozen": _count_until(freeze),
    "silent": work_silently,
    "memory": run_out_of_memory,
    "hang": hang,
    "deaf": ignore_everything,
    "refuse": refuse,
    "error": raise_error,
    "full": fill_disk,
    "roomy": need_room,
    "crash": crash,
    "abort": abort,
    "killed": be_killed,
    "leave": leave,
    "broken-off": break_off,
    "frozen-within": freeze_within,
    "swallow": swallow_memory,
    "greedy": ask_for_much_memory,
    "linger": finish_and_linger,
    "link": link_to_something,
    "foreign": report_foreign_checkpoint,
    "register": register,
    "validate": validate,
}
