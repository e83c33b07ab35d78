"""The jobs of the demo, over HTTP: sent, watched, downloaded and opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from thaw.client import Client
from thaw.demo import programs
from thaw.demo.experiments import FROZEN_EPOCHS, UNFROZEN_EPOCHS, Experiment
from thaw.demo.findings import Outcome
from thaw.demo.problems import DemoError
from thaw.records import Event, Job, Report

EPOCHS = FROZEN_EPOCHS + UNFROZEN_EPOCHS


@dataclass(frozen=True)
class Pair:
    """The two jobs of one seed."""

    seed: int
    scratch: Job
    transferred: Job

    def named(self) -> Sequence[tuple[str, Job]]:
        """Both, with what people read."""
        return (("from scratch", self.scratch), ("transferred", self.transferred))


def bars(progress_of: str) -> Sequence[TextColumn | BarColumn | TimeElapsedColumn]:
    """The columns of a progress display of epochs, with the latest `progress_of`."""
    return (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} epochs"),
        TextColumn(progress_of + " {task.fields[figure]}"),
        TimeElapsedColumn(),
    )


def submit(client: Client, experiment: Experiment, folder: Path, seeds: Sequence[int]) -> list[Pair]:
    """Register the source, upload the examples of each seed, send two jobs for each."""
    model = client.models.push(folder / "source.keras", rescale=experiment.rescale)
    return [_submit_one(client, experiment, folder, seed, model.id) for seed in seeds]


def _submit_one(client: Client, experiment: Experiment, folder: Path, seed: int, model_id: str) -> Pair:
    data = client.datasets.push(folder / f"target-{seed}.npz")

    def job(body: Mapping[str, object], role: str) -> Job:
        request = {**body, "model": model_id, "training_file": data.id, "seed": seed}
        return client.jobs.create(**request, metadata={"demo": role})  # type: ignore[arg-type]  # the API checks it

    return Pair(
        seed=seed,
        scratch=job(experiment.from_scratch(), "from scratch"),
        transferred=job(experiment.transferred(), "transferred"),
    )


def watch(client: Client, pairs: Sequence[Pair], progress: Progress) -> list[Pair]:
    """Follow the events of all jobs to their ends; the pairs as they are then. `DemoError` if one did not succeed."""
    several = len(pairs) > 1
    rows = {
        job.id: progress.add_task(f"{name}, seed {pair.seed}" if several else name, total=EPOCHS, figure="-")
        for pair in pairs
        for name, job in pair.named()
    }
    # One worker takes them in this order; where several work, events that came earlier are read later.
    for identifier, row in rows.items():
        for event in client.jobs.events(identifier):
            _show(progress, row, event)
    return [Pair(pair.seed, _ended(client, pair.scratch), _ended(client, pair.transferred)) for pair in pairs]


def _show(progress: Progress, row: TaskID, event: Event) -> None:
    metrics = event.data.get("metrics")
    if event.type == "metrics" and isinstance(metrics, Mapping):
        progress.update(row, advance=1, figure=f"{metrics.get('val_accuracy', float('nan')):.3f}")


def _ended(client: Client, job: Job) -> Job:
    ended = client.jobs.get(job.id)
    if ended.status != "succeeded":
        reason = f": {ended.error.message}" if ended.error else ""
        message = f"The job {job.id} ({(job.metadata or {}).get('demo')}) is {ended.status}{reason}"
        raise DemoError(message)
    return ended


def outcome(pair: Pair) -> Outcome:
    """What both jobs reported. `DemoError` if a proof did not hold."""
    scratch, transferred = _report(pair.scratch), _report(pair.transferred)
    if scratch.test.accuracy is None or transferred.test.accuracy is None:
        message = "The reports have no accuracy."
        raise DemoError(message)
    return Outcome(pair.seed, scratch.test.accuracy, transferred.test.accuracy, transferred.test.examples)


def _report(job: Job) -> Report:
    report = job.report
    if report is None or not report.phases or report.source is None:
        message = f"The job {job.id} succeeded without a report."
        raise DemoError(message)
    broken = [phase.name for phase in report.phases if not (phase.proof and phase.proof.held)]
    if broken or not report.source.unchanged:
        message = f"The job {job.id} changed what must not change: {', '.join(broken) or 'its source'}."
        raise DemoError(message)
    return report


def open_results(client: Client, pairs: Sequence[Pair], folder: Path) -> str:
    """Download the transferred models and open them with plain Keras; what was found, in words.

    Raises `DemoError` if one does not get as many test examples right as its job reported.
    """
    arguments: list[str] = []
    for pair in pairs:
        for name in ("model.keras", "labels.json"):
            place = folder / f"{pair.seed}-{name}"
            client.jobs.download(pair.transferred.id, name, place)
            arguments.append(str(place))
        arguments.append(str(folder / f"target-{pair.seed}.npz"))
    with programs.started("check_result.py", *arguments, folder=folder) as lines:
        found = list(lines)
    for pair, seen in zip(pairs, found, strict=True):
        _compare(pair, seen)
    counts = ", ".join(f"{seen['correct']:,} of {seen['examples']:,}" for seen in found)
    return (
        f"Plain Keras {found[0]['keras']} opened what was downloaded, in a process without Thaw, and got as many "
        f"raw test examples right as reported: {counts}."
    )


def _compare(pair: Pair, seen: Mapping[str, object]) -> None:
    told = outcome(pair)
    expected = round(told.transferred.value * told.examples)
    if seen["ours"]:
        message = f"Opening the model imported {seen['ours']}; plain Keras must be enough."
        raise DemoError(message)
    if (seen["correct"], seen["examples"]) != (expected, told.examples):
        message = (
            f"The downloaded model gets {seen['correct']} of {seen['examples']} test examples right; its job reported "
            f"{expected} of {told.examples}."
        )
        raise DemoError(message)
