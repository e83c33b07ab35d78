"""The live picture of a job: a bar and the latest figures for each phase, what is frozen, and how long it will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from thaw.cli import text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from thaw.records import Event, Job

_BAR_WIDTH = 24


class Picture:
    """What is known about a watched job; rich draws it anew several times a second."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.away = False
        self._figures: dict[int, str] = {}
        """By the index of the phase, from 1."""
        self._reached: dict[int, int] = {}
        """Epochs done in each phase."""
        self._ended: set[int] = set()
        self._trained: Mapping[str, object] = {}

    def see(self, job: Job | None) -> None:
        """Take over the job as it is now; `None`: the service did not answer."""
        self.away = job is None
        if job is None:
            return
        if job.attempt and self.job.attempt and job.attempt.number > self.job.attempt.number:
            self._start_over()
        self.job = job

    def hear(self, event: Event) -> None:
        """Take over what an event tells; events of kinds that are not known yet are passed over."""
        phase = event.data.get("phase")
        index = phase.get("index") if isinstance(phase, Mapping) else None
        if not isinstance(phase, Mapping) or not isinstance(index, int):
            return
        epoch, figures = phase.get("epoch"), event.data.get("metrics")
        if isinstance(epoch, int) and isinstance(figures, Mapping):
            self._reached[index] = epoch
            self._figures[index] = text.metrics(figures)
        if "trainable_parameters" in event.data:
            self._trained = event.data
        if "proof" in event.data:
            self._ended.add(index)

    def _start_over(self) -> None:
        """A new attempt trains from the first phase on."""
        self._figures.clear()
        self._reached.clear()
        self._ended.clear()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self._headline(), style="bold")
        yield self._phases()
        for line in self._footer():
            yield Text(line, style="dim")

    def _headline(self) -> str:
        job = self.job
        words = [job.id, job.status]
        if job.status == "running" and job.stage:
            words.append(text.plain(job.stage).replace("_", " "))
        if job.attempt and job.attempt.number > 1:
            words.append(f"attempt {job.attempt.number}")
        if job.cancel_requested_at and not job.finished:
            words.append("asked to stop")
        if job.set_aside:
            words.append(text.plain(job.set_aside.code))
        if self.away:
            words.append("the service does not answer, trying again")
        return " · ".join(words)

    def _phases(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for index, phase in enumerate(self.job.schedule, start=1):
            epochs = phase.get("epochs")
            total = epochs if isinstance(epochs, int) else 1
            done = self._done(index, total)
            # A phase that stopped early is complete, however many epochs it was allowed.
            complete = index in self._ended
            table.add_row(
                Text(text.plain(phase.get("name") or f"phase {index}")),
                Text(f"unfreeze {text.choice(phase.get('unfreeze', 'none'))}", style="dim"),
                ProgressBar(total=total, completed=total if complete else done, width=_BAR_WIDTH),
                Text(f"{done}/{total}" + (" early" if complete and done < total else "")),
                Text(self._figures.get(index, ""), style="cyan"),
            )
        return table

    def _done(self, index: int, total: int) -> int:
        """Epochs done, from what was heard; watching may have begun in the middle, then from the job itself."""
        heard = self._reached.get(index, 0)
        now = self.job.phase
        if self.job.status == "succeeded" and index not in self._reached:
            return total
        if now is not None and now.index > index and index not in self._reached:
            return total
        return heard

    def _footer(self) -> Iterator[str]:
        trainable, frozen = (self._trained.get(name) for name in ("trainable_parameters", "frozen_parameters"))
        if isinstance(trainable, int) and isinstance(frozen, int) and not self.job.finished:
            yield f"{trainable:,} parameters train, {frozen:,} are frozen"
        progress = self.job.progress
        if progress is None or self.job.finished:
            return
        if self.job.status == "queued" and progress.queue_position:
            yield f"number {progress.queue_position} in the queue"
        if self.job.status == "running" and progress.percent is not None:
            left = f", about {text.duration(progress.eta_seconds)} left" if progress.eta_seconds else ""
            yield f"{progress.percent:.0f} %{left}"
