"""Polling one job, in a short list and in a long one: any job that has ended, and one that runs."""

import itertools
import random
from collections.abc import Iterator, Mapping

from connection import Connection
from figures import Call, Line, in_turns, times
from histories import History, histories
from rows import job_id
from sites import Bench

JOBS = "/v1/fine_tuning/jobs"
TAGGED = 300
"""So many jobs are asked for again and again with their ETag."""
BAR = 1.5


def measure(bench: Bench) -> list[Line]:
    """200 and 304."""
    short, long = histories(bench)
    connections = {"short": short.api.connect(), "long": long.api.connect(), "bare": bench.bare.connect()}
    sides = {"short": short, "long": long}
    servers = {"short": short.api, "long": long.api, "bare": bench.bare}
    any_job = {name: _any(connections[name], each) for name, each in sides.items()}
    running = {
        name: itertools.repeat(connections[name].request("GET", _path(each.running))) for name, each in sides.items()
    }
    tagged = {name: _tagged(connections[name], each) for name, each in sides.items()}
    kinds = {
        "poll any job: 200": (any_job, 200),
        "poll any job: 304": (tagged, 304),
        "poll a running job": (running, 200),
    }
    lines = []
    for what, (requests, status) in kinds.items():
        payload = connections["long"].ask(next(requests["long"]), status=status).body
        connections["bare"].put("/payloads/poll", payload or b"{}")
        bare = itertools.repeat(connections["bare"].request("GET", "/payloads/poll"))
        calls = {name: _asking(connections[name], each, status) for name, each in requests.items()}
        taken = in_turns(
            {**calls, "bare": _asking(connections["bare"], bare, 200)}, turns=bench.sizes.turns, workers=servers
        )
        few = f"{short.copies.count:,} jobs"
        lines += [
            times(f"{what}, {short.copies.count:,} jobs", taken["short"], against="bare route", other=taken["bare"]),
            times(f"{what}, {long.copies.count:,} jobs", taken["long"], against=few, other=taken["short"], bar=BAR),
        ]
    for connection in connections.values():
        connection.close()
    return lines


def _path(identifier: str) -> str:
    return f"{JOBS}/{identifier}"


def _any(connection: Connection, history: History) -> Iterator[bytes]:
    """Jobs at random, from all of the list."""
    choose = random.Random(0)  # noqa: S311 (repeatable is what it must be)
    while True:
        yield connection.request("GET", _path(job_id(choose.randint(1, history.copies.count))))


def _tagged(connection: Connection, history: History) -> Iterator[bytes]:
    """The same jobs in turn, with the ETag that they have."""
    choose = random.Random(1)  # noqa: S311 (repeatable is what it must be)
    paths = [_path(job_id(choose.randint(1, history.copies.count))) for _ in range(TAGGED)]
    tags: Mapping[str, str] = {path: connection.get(path).header("etag") for path in paths}
    return itertools.cycle([connection.request("GET", path, If_None_Match=tag) for path, tag in tags.items()])


def _asking(connection: Connection, requests: Iterator[bytes], status: int) -> Call:
    return lambda: connection.ask(next(requests), status=status)
