"""What Prometheus reads: the service's tallies, counted when it asks, and how this process answered requests.

    thaw_jobs, thaw_queue_depth, …      from the database: the same in every API process (take `max` over instances)
    thaw_recent_…                       of the newest 10,000 jobs: gauges that may fall, as old jobs drop out
    thaw_http_request_seconds           of this process since its start (add up over instances)

No registry is global: the application has one histogram, and each scrape a registry of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.domain.states import TERMINAL, TRANSITIONS
from app.services import workers
from app.services.tallies import RECENT, Tallies

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_Rows = Iterable[tuple[Sequence[str], float]]


def request_times() -> Histogram:
    """Where an application notes how it answered; of no registry until somebody asks."""
    return Histogram(
        "thaw_http_request_seconds",
        "Seconds from a request to the begin of its answer, by method, route and status.",
        ["method", "route", "status"],
        buckets=SECONDS,
        registry=None,
    )


def note_request(times: Histogram, *, method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered request. `route` is the template, never the path, and unknown methods are one."""
    times.labels(method if method in METHODS else "other", route, str(status)).observe(seconds)


def exposed(tallies: Tallies, times: Histogram) -> bytes:
    """The page in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Counted(tallies))
    registry.register(times)
    return generate_latest(registry)


class _Counted(Collector):
    """The tallies of one scrape."""

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies

    def describe(self) -> list[Metric]:
        """Nothing: a registry that knows no names asks for no values when this is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        yield _gauge("thaw_info", "The version that answers; always 1.", ["version"], [((version("thaw"),), 1)])
        for families in (_jobs, _work, _recent):
            yield from families(self._tallies)


def _jobs(tallies: Tallies) -> Iterable[Metric]:
    by_status = {status: tallies.jobs.get(status, 0) for status in TRANSITIONS}
    yield _gauge("thaw_jobs", "Jobs by status.", ["status"], _each(by_status))
    finished = CounterMetricFamily("thaw_jobs_finished", "Jobs that ended, by outcome.", labels=["outcome"])
    for status in sorted(TERMINAL):
        finished.add_metric([status], by_status[status])
    yield finished


def _work(tallies: Tallies) -> Iterable[Metric]:
    yield _gauge("thaw_queued_jobs", "Queued jobs by priority.", ["priority"], _each(tallies.queued))
    yield _gauge("thaw_queue_depth", "What workers could claim now, by queue.", ["queue"], _each(tallies.waiting))
    oldest = "Seconds since the job came into the queue, last, that has waited there longest; 0: none waits."
    yield _gauge("thaw_oldest_queued_job_seconds", oldest, [], [((), tallies.oldest_waiting_seconds)])
    serving = {queue: sum(queue in worker.queues for worker in tallies.workers) for queue in tallies.waiting}
    yield _gauge("thaw_workers", "Workers that were heard of lately, by queue.", ["queue"], _each(serving))
    fitness = "Workers that take what waits, by queue: in cpu and gpu, those that do not refuse to train."
    fit = {queue: sum(workers.takes(worker, queue) for worker in tallies.workers) for queue in tallies.waiting}
    yield _gauge("thaw_workers_fit", fitness, ["queue"], _each(fit))
    refusing = sum(worker.refuses_training is not None for worker in tallies.workers)
    unfit = "Workers that refuse to train: their self-test failed, or their disk is full."
    yield _gauge("thaw_workers_unfit", unfit, [], [((), refusing)])
    held = {kind: found.live for kind, found in tallies.held.items()}
    yield _gauge("thaw_leases", "Jobs, models and datasets that workers hold.", ["kind"], _each(held))
    overdue = {kind: found.overdue for kind, found in tallies.held.items()}
    yield _gauge("thaw_leases_overdue", "Leases that ran out and were not taken back yet.", ["kind"], _each(overdue))


def _recent(tallies: Tallies) -> Iterable[Metric]:
    newest = f"of the newest {RECENT:,} jobs"
    endings = tallies.endings
    reasons = [((each.status, each.error_class or "", each.code or ""), each.jobs) for each in endings]
    labels = ["status", "error_class", "code"]
    yield _gauge("thaw_recent_jobs", f"Status, class and code of failure {newest}.", labels, reasons)
    attempts = dict.fromkeys(sorted({each.status for each in endings}), 0)
    lost = dict(attempts)
    for each in endings:
        attempts[each.status] += each.attempts
        lost[each.status] += each.lost_attempts
    yield _gauge("thaw_recent_attempts", f"Attempts {newest}, by status.", ["status"], _each(attempts))
    yield _gauge("thaw_recent_lost_attempts", f"Lost since the last checkpoint, {newest}.", ["status"], _each(lost))
    seconds = {each.stage: each.seconds for each in tallies.stages}
    yield _gauge("thaw_recent_stage_seconds_sum", f"Seconds in stages {newest}.", ["stage"], _each(seconds))
    counts = {each.stage: each.count for each in tallies.stages}
    yield _gauge("thaw_recent_stage_seconds_count", f"Stages that ended {newest}.", ["stage"], _each(counts))
    yield from _caching(tallies, newest)


def _caching(tallies: Tallies, newest: str) -> Iterable[Metric]:
    """`hit`: an earlier phase or job had made the features; `made`: this phase did; `unused`: it has none."""
    phases, saved = dict.fromkeys(("hit", "made", "unused"), 0), 0.0
    for each in tallies.caching:
        phases["unused" if not each.used else "hit" if each.found else "made"] += each.phases
        saved += each.saved_seconds
    help_ = f"Phases {newest}, by what the cache of frozen layers was for them: hit, made or unused."
    yield _gauge("thaw_recent_cached_phases", help_, ["cache"], _each(phases))
    yield _gauge("thaw_recent_cache_saved_seconds", f"Seconds that it saved, estimated, {newest}.", [], [((), saved)])


def _each(values: Mapping[Any, float]) -> _Rows:
    return [((name,), value) for name, value in values.items()]


def _gauge(name: str, help_: str, labels: Sequence[str], rows: _Rows) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
