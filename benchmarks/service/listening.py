"""Very many event streams at one API process: all of one job, then each of a job of its own.

An event is made by the services of this process, as a worker would, at a random moment between two looks of the API
for news (`THAW_EVENT_POLL_SECONDS`, 0.5 s). The clock starts when it is committed.
"""

import random
import time
from collections.abc import Mapping, Sequence

import rows
import things
from figures import Line, Taken, in_turns, percentile, times
from servers import Server, raise_limit_of_open_files
from sites import Bench, Site
from streams import Streams
from things import PROJECT

from app.services import history, jobs

EVENTS = 20
IDLE_SECONDS = 10.0
JOBS = "/v1/fine_tuning/jobs"


def measure(bench: Bench) -> list[Line]:
    """Memory, processor, delays, and what other requests have to bear."""
    count = bench.sizes.listeners
    raise_limit_of_open_files(2 * count + 200)
    site = bench.site("listening")
    queued = things.submit(site.services, things.model(site.services, "mobilenet"), things.dataset(site.services))
    rows.fill(site, count, vary=rows.line)
    lines = []
    for shape, watched in (
        ("one job", [queued.id] * count),
        ("a job each", [rows.job_id(number) for number in range(1, count + 1)]),
    ):
        with site.api() as busy, site.api() as free:
            lines += _shape(site, busy, free, shape, watched)
    return lines


def _shape(site: Site, busy: Server, free: Server, shape: str, watched: Sequence[str]) -> list[Line]:
    """`busy` has the streams, `free` serves the same database without any."""
    path = f"{JOBS}/{watched[0]}"
    for server in (busy, free):
        _poll(server, path, times=200)
    before, of_none = busy.resident_bytes, _idle_share(busy)
    with Streams(busy, watched) as streams:
        for identifier in set(watched):
            streams.arrivals(identifier, 1, wanted=watched.count(identifier))
        each_kib = (busy.resident_bytes - before) / 1024 / len(watched)
        idle, requests = _idle_share(busy), _in_turns(busy, free, path)
        used, started = busy.processor_seconds, time.monotonic()
        delays, last = _delays(site, streams, watched)
        used += (time.monotonic() - started) * idle / 100
        last_ms = {**_percentiles(last), "cpu": (busy.processor_seconds - used) / EVENTS * 1000}
        waits = _during_events(site, busy, free, path, streams=streams, watched=watched)
    name = f"{len(watched):,} listeners, {shape}"
    return [
        Line(f"{name}: memory of each", "KiB", {"": each_kib}),
        Line(f"{name}: memory of the API", "MiB", {"": busy.peak_bytes / 2**20}, "without", {"": before / 2**20}),
        Line(f"{name}: processor while idle", "% core", {"": idle}, "without", {"": of_none}),
        *_arrivals(name, delays, last_ms, listeners_of_one=watched.count(watched[0])),
        times(f"{name}: poll while idle", requests["busy"], against="without", other=requests["free"]),
        times(f"{name}: poll while events go out", waits["busy"], against="without", other=waits["free"]),
    ]


def _arrivals(name: str, delays: Sequence[float], last_ms: Mapping[str, float], *, listeners_of_one: int) -> list[Line]:
    """Where each job has one listener, the first who is reached is the last."""
    if listeners_of_one == 1:
        return [Line(f"{name}: an event to its listener", "ms", last_ms)]
    return [
        Line(f"{name}: an event to each", "ms", _percentiles(delays)),
        Line(f"{name}: an event to all", "ms", last_ms),
    ]


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(values, 50), "p99": percentile(values, 99)}


def _idle_share(server: Server) -> float:
    """Percent of one core that it uses while nothing happens."""
    used, started = server.processor_seconds, time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (server.processor_seconds - used) / (time.monotonic() - started) * 100


def _delays(site: Site, streams: Streams, watched: Sequence[str]) -> tuple[list[float], list[float]]:
    """Milliseconds from an event's commit to each stream of its job, and to the last of them."""
    choose, delays, last = random.Random(0), [], []  # noqa: S311 (repeatable is what it must be)
    for _ in range(EVENTS):
        identifier = choose.choice(watched)
        number, committed = _happen(site, identifier)
        arrived = streams.arrivals(identifier, number, wanted=watched.count(identifier))
        delays += [(at - committed) * 1000 for at in arrived]
        last.append((max(arrived) - committed) * 1000)
        time.sleep(choose.random())
    return delays, last


def _happen(site: Site, identifier: str) -> tuple[int, float]:
    """Pause the job, or resume it: one event. Its number, and when it was committed."""
    job = jobs.get(site.services, PROJECT, identifier)
    (jobs.resume if job.status == "paused" else jobs.request_pause)(site.services, PROJECT, identifier)
    committed = time.perf_counter()
    return history.newest_numbers(site.services, PROJECT, [identifier])[identifier], committed


def _in_turns(busy: Server, free: Server, path: str, *, turns: int = 300) -> dict[str, Taken]:
    with busy.connect() as one, free.connect() as other:
        requests = one.request("GET", path), other.request("GET", path)
        return in_turns({"busy": lambda: one.ask(requests[0]), "free": lambda: other.ask(requests[1])}, turns=turns)


def _during_events(
    site: Site, busy: Server, free: Server, path: str, *, streams: Streams, watched: Sequence[str]
) -> dict[str, Taken]:
    """Polls from the moment that an event is committed until a second later, again and again."""
    taken = {"busy": Taken(), "free": Taken()}
    for _ in range(5):
        number, committed = _happen(site, watched[0])
        while time.perf_counter() < committed + 1:
            for name, each in _in_turns(busy, free, path, turns=5).items():
                taken[name] += each
        streams.arrivals(watched[0], number, wanted=watched.count(watched[0]))
    return taken


def _poll(server: Server, path: str, *, times: int) -> None:
    with server.connect() as connection:
        for _ in range(times):
            connection.get(path)
