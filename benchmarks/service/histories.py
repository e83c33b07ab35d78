"""Two services that have been there for a while: a short list of jobs, and a long one; a few jobs run and wait."""

import functools
import os
import sys
import time
from dataclasses import dataclass

import rows
import things
from rows import Copies
from servers import Server
from sites import Bench

RUNNING = 4
WAITING = 20


@dataclass(frozen=True)
class History:
    """A service with very many jobs that have ended."""

    copies: Copies
    api: Server
    model: str
    """The id of a model that half of the jobs have."""
    running: str
    """The id of a job that runs."""


@functools.cache
def histories(bench: Bench) -> tuple[History, History]:
    """The short one and the long one; made once for each bench."""
    short = _history(bench, "short", max(1_000, bench.sizes.jobs // 1_000))
    started = time.monotonic()
    long = _history(bench, "long", bench.sizes.jobs)
    os.sync()
    print(f"made {bench.sizes.jobs:,} jobs in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return short, long


def _history(bench: Bench, name: str, count: int) -> History:
    site = bench.site(name)
    models = things.one_of_each_kind(site.services)
    copies = rows.fill(site, count, vary=rows.history(count))
    data = things.dataset(site.services)
    running = [things.claim(site.services, things.submit(site.services, models[0], data)) for _ in range(RUNNING)]
    for number in range(WAITING):
        things.submit(site.services, models[1], data, number)
    return History(copies=copies, api=bench.serve(site), model=models[0], running=running[0].identifier)
