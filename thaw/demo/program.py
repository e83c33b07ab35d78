"""The demo from its start to its last line."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import Progress

from thaw.demo import embedded, findings, programs, runs
from thaw.demo.experiments import DEFAULT_SEEDS, EXPERIMENTS, FROZEN_EPOCHS, UNFROZEN_EPOCHS, Experiment
from thaw.demo.problems import DemoError
from thaw.errors import ThawClientError

_INTERRUPTED = 130


def main(*, data: str = "digits", data_dir: Path | None = None, seeds: Sequence[int] | None = None) -> int:
    """Run the experiment on one of `DATASETS`; 0 when it was carried out, 1 when not, 130 after Ctrl-C.

    `data_dir` keeps everything; left out, a temporary folder is used. Each seed draws other training examples and
    other starting weights. Must be called in the main thread.
    """
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        with _ending_on_sigterm(), _folder(data_dir) as folder:
            _run(EXPERIMENTS[data], folder, list(dict.fromkeys(seeds or DEFAULT_SEEDS)), console)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; nothing is left running.\n")
        return _INTERRUPTED
    except (DemoError, ThawClientError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    console.print(f"Took {time.monotonic() - started:.0f} s. `thaw up` runs the same service for your own models.")
    return 0


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: what it started is ended, too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield data_dir.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="thaw-demo-") as name:
        yield Path(name)


def _run(experiment: Experiment, folder: Path, seeds: Sequence[int], console: Console) -> None:
    work = folder / "demo"
    work.mkdir(exist_ok=True)
    console.print(f"[bold]{experiment.title}[/bold]: does {experiment.source} help?")
    with embedded.starting(folder, work / "service.log") as service:
        # The service loads while the source is trained.
        _train_source(experiment, work, seeds, console)
        with service.client() as client:
            console.print(f"Service ready at {client.url}; sending {2 * len(seeds)} jobs for {experiment.target}.")
            pairs = runs.submit(client, experiment, work, seeds)
            with Progress(*runs.bars("validation accuracy"), console=console) as progress:
                pairs = runs.watch(client, pairs, progress)
            opened = runs.open_results(client, pairs, work)
    _tell(experiment, [runs.outcome(pair) for pair in pairs], opened, console)


def _train_source(experiment: Experiment, work: Path, seeds: Sequence[int], console: Console) -> None:
    arguments = (str(work), *map(str, seeds))
    with (
        Progress(*runs.bars("accuracy"), console=console) as progress,
        programs.started(experiment.script, *arguments, folder=work) as lines,
    ):
        row = progress.add_task("source", total=None, figure="-")
        for line in lines:
            progress.update(row, total=line["epochs"], completed=line["epoch"], figure=f"{line['accuracy']:.3f}")


def _tell(experiment: Experiment, outcomes: Sequence[findings.Outcome], opened: str, console: Console) -> None:
    console.print(findings.table(outcomes))
    console.print(findings.verdict(outcomes))
    console.print(
        f"transferred: {FROZEN_EPOCHS} epochs with the reused layers frozen ({experiment.frozen}), "
        f"{UNFROZEN_EPOCHS} with all unfrozen ({experiment.unfrozen})."
    )
    console.print(
        f"from scratch: the same architecture with new weights, {FROZEN_EPOCHS + UNFROZEN_EPOCHS} epochs with all "
        f"unfrozen ({experiment.scratch}, the best of {experiment.scratch_tries} settings for it), the same examples."
    )
    console.print("What was frozen stayed bit for bit, and the source is unchanged: every job proved both.")
    console.print(opened)
