"""`client.jobs`: fine-tuning runs, from the plan to the downloaded result."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Unpack

from thaw.connection import Connection
from thaw.downloading import download
from thaw.errors import NotFoundError, WorkFailedError
from thaw.reading import OnProgress
from thaw.records import Artifact, Checkpoint, EpochMetrics, Event, Job, Plan, Report, read
from thaw.requests import ForkRequest, JobRequest, RetryRequest
from thaw.resources.paging import Order, entries, every
from thaw.resources.waiting import refusal, wait_until
from thaw.streaming import follow

_PATH = "/v1/fine_tuning/jobs"
_PATIENCE_SECONDS = 300.0


class Jobs:
    """Fine-tuning runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, *, idempotency_key: str | None = None, **request: Unpack[JobRequest]) -> Job:
        """Submit a job; returns at once.

        Args:
            idempotency_key: The same key and the same request give the same job, however often they are sent. Left
                out, one is made, so that a repetition after a broken connection does not start a second job.
            **request: See `JobRequest`; fields that it does not know are sent as they are.

        Raises:
            InvalidRequestError: The request is wrong; `problems` points at every wrong field.
        """
        key = idempotency_key or uuid.uuid4().hex
        return read(Job, self._connection.post(_PATH, body={**request}, idempotency_key=key))

    def plan(self, **request: Unpack[JobRequest]) -> Plan:
        """What such a job would do, and what is worth knowing before it starts; nothing is created."""
        return read(Plan, self._connection.post(f"{_PATH}/plan", body={**request}))

    def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        metadata: Mapping[str, str] | None = None,
        created_after: float | None = None,
        order: Order = "desc",
    ) -> Iterator[Job]:
        """Every job that fits, fetched page by page."""
        filters = {"status": status, "model": model, "dataset": dataset, "created_after": created_after}
        wanted = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        return every(Job, self._connection, _PATH, {**filters, **wanted, "order": order})

    def get(self, job_id: str) -> Job:
        """One job."""
        return read(Job, self._connection.get(f"{_PATH}/{job_id}"))

    def wait(self, job_id: str, *, timeout: float | None = None, on_change: Callable[[Job], None] | None = None) -> Job:
        """Wait until the job has ended, however it ended: look at `status` and `error`.

        Args:
            job_id: Which.
            timeout: The longest to wait, in seconds; `None`: no limit.
            on_change: Called with the job each time that it was seen changed.

        Raises:
            WaitTimeoutError: It took longer than `timeout`; the job goes on.
        """
        return wait_until(
            Job,
            self._connection,
            f"{_PATH}/{job_id}",
            done=lambda job: job.finished,
            timeout=timeout,
            on_change=on_change,
        )

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. Asking again is fine; `ConflictError` if it has succeeded or failed."""
        return read(Job, self._connection.post(f"{_PATH}/{job_id}/cancel", body={}))

    def pause(self, job_id: str) -> Job:
        """Ask a job to stop at its next training step, with a checkpoint. Asking again is fine.

        Raises:
            ConflictError: It has ended, or its files are not checked yet.
        """
        return read(Job, self._connection.post(f"{_PATH}/{job_id}/pause", body={}))

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it was. Asking again is fine; `ConflictError` if it has ended."""
        return read(Job, self._connection.post(f"{_PATH}/{job_id}/resume", body={}))

    def retry(self, job_id: str, *, idempotency_key: str | None = None, **changes: Unpack[RetryRequest]) -> Job:
        """Do a job again that failed or was cancelled; the new job, with the same spec and seed.

        Args:
            job_id: Which.
            idempotency_key: As in `create`.
            **changes: What is to be different, see `RetryRequest`.

        Raises:
            ConflictError: It has not failed and was not cancelled.
        """
        return self._again(f"{_PATH}/{job_id}/retry", {**changes}, idempotency_key)

    def fork(self, job_id: str, *, idempotency_key: str | None = None, **changes: Unpack[ForkRequest]) -> Job:
        """Start a new job from weights that a job had, such as at the end of a phase; the new job.

        Args:
            job_id: Which.
            idempotency_key: As in `create`.
            **changes: From where, and what is to be different, see `ForkRequest`.

        Raises:
            ConflictError: It has no weights yet: no phase of it has ended.
        """
        return self._again(f"{_PATH}/{job_id}/fork", {**changes}, idempotency_key)

    def _again(self, path: str, body: dict[str, object], key: str | None) -> Job:
        return read(Job, self._connection.post(path, body=body, idempotency_key=key or uuid.uuid4().hex))

    def events(
        self, job_id: str, *, after: int = 0, follow_on: bool = True, patience_seconds: float = _PATIENCE_SECONDS
    ) -> Iterator[Event]:
        """The job's events in their order, from the one with number `after` + 1.

        Args:
            job_id: Which.
            after: The number of the last event that is known already.
            follow_on: Whether to go on with events as they happen, until the job has ended; over broken connections,
                too. Otherwise those that there are.
            patience_seconds: For how long a service that is silent is tried again.
        """
        if follow_on:
            return follow(self._connection, job_id, after=after, patience_seconds=patience_seconds)
        known = every(Event, self._connection, f"{_PATH}/{job_id}/events", {"order": "asc"})
        return (event for event in known if event.number > after)

    def metrics(self, job_id: str) -> Iterator[EpochMetrics]:
        """What each epoch measured, in order."""
        return every(EpochMetrics, self._connection, f"{_PATH}/{job_id}/metrics", {"order": "asc"})

    def checkpoints(self, job_id: str) -> Iterator[Checkpoint]:
        """The weights at the end of each phase, and what a job that has not ended would go on from, in order."""
        return every(Checkpoint, self._connection, f"{_PATH}/{job_id}/checkpoints", {"order": "asc"})

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files that the job produced; none until it has succeeded."""
        return entries(Artifact, self._connection.get(f"{_PATH}/{job_id}/artifacts"))

    def download(
        self,
        job_id: str,
        artifact: str = "model.keras",
        destination: str | PathLike[str] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Save one of the files that the job produced.

        It comes under a temporary name, is resumed when the connection breaks, is compared with the sha256 that the
        service keeps, and only then gets its name.

        Args:
            job_id: Which.
            artifact: `model.keras`, an export (`saved_model.zip`, `model.tflite`, `model_int8.tflite`, `model.onnx`),
                `labels.json`, `metrics.csv`, `history.json`, `report.json`, `MODEL_CARD.md`,
                `events.out.tfevents.thaw` (for TensorBoard) or `manifest.json`.
            destination: A file, which is replaced if it exists; a folder; or `None` for the working folder.
            on_progress: Called with the bytes done and the bytes in all.

        Returns:
            Where the file is.

        Raises:
            WorkFailedError: The job has no results, as it failed, was cancelled or has not ended.
            NotFoundError: It has no file of this name.
            DownloadError: What came is not what the service promised; nothing was kept.
        """
        known = {found.name: found for found in self.artifacts(job_id)}
        if artifact not in known:
            raise self._no_artifact(job_id, artifact, list(known))
        wanted = known[artifact]
        return download(
            self._connection,
            f"{_PATH}/{job_id}/artifacts/{artifact}",
            destination,
            default_name=artifact,
            sha256=wanted.sha256,
            on_progress=on_progress,
        )

    def report(self, job_id: str) -> Report:
        """What the job found out; `WorkFailedError` if it has no results."""
        job = self.get(job_id)
        if job.report is None:
            raise _no_results(job)
        return job.report

    def _no_artifact(self, job_id: str, artifact: str, names: Sequence[str]) -> Exception:
        if not names:
            return _no_results(self.get(job_id))
        message = f"{job_id} has no file {artifact!r}. It has: {', '.join(names)}."
        return NotFoundError(message, status=404, code="not_found")


def _no_results(job: Job) -> WorkFailedError:
    if job.status == "failed":
        return refusal(job.id, job.error)
    when = "its status is final" if job.finished else "wait until it has succeeded"
    return WorkFailedError(f"{job.id} has no results: it is {job.status}; {when}.", identifier=job.id)
