"""Load on Thaw's API: how long requests take, against a bare FastAPI route and against hardly anything stored.

    uv run python benchmarks/service/run.py [--database postgresql] [--only polling] [--jobs 1000000] …

creating       jobs, by one client and by eight; what of it is waiting for the disk
polling        one job of a thousand and of a million: 200 and 304
listing        pages of both, with filters
listening      a thousand event streams at one API process (SQLite alone)
queued         a hundred thousand waiting jobs against ten: place, claim, sweep, create
transferring   2 GiB up and down: memory, throughput, Range (SQLite alone)

Both sides are asked in turns by the same client on kept connections, so what counts are ratios. Thaw's API and the bare
application are one process of uvicorn each. JSON goes to standard output, followed by a table. A figure that misses its
bar makes the exit status 1.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import creating
import listening
import listing
import polling
import queued
import transferring
from figures import Line, table
from sites import Bench, DatabaseKind, Sizes

SCENARIOS: Mapping[str, Callable[[Bench], list[Line]]] = {
    "creating": creating.measure,
    "polling": polling.measure,
    "listing": listing.measure,
    "listening": listening.measure,
    "queued": queued.measure,
    "transferring": transferring.measure,
}
ON_SQLITE_ALONE = ("listening", "transferring")
"""The database has hardly a part in these."""


def main() -> int:
    """Measure, print; 1 if a figure misses its bar."""
    options = _options()
    for name in [name for name in os.environ if name.startswith("THAW_")]:
        del os.environ[name]
    sizes = Sizes(
        jobs=options.jobs,
        turns=options.turns,
        listeners=options.listeners,
        queued=options.queued,
        transfer_bytes=int(options.gib * 2**30),
        rounds=options.rounds,
    )
    found: dict[str, list[Line]] = {}
    seconds: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="thaw-load-", dir=options.folder) as folder,
        Bench(Path(folder), database=options.database, sizes=sizes) as bench,
    ):
        for name in options.only or _scenarios(options.database):
            started = time.monotonic()
            found[name] = SCENARIOS[name](bench)
            seconds[name] = round(time.monotonic() - started, 1)
            print(table({name: found[name]}), file=sys.stderr)
    figures = {name: [line.as_json() for line in lines] for name, lines in found.items()}
    facts = {"machine": machine(), "database": options.database, "seconds": seconds}
    print(json.dumps({**facts, **figures}, indent=1))
    print(table(found))
    return int(any(not line.met for lines in found.values() for line in lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="may be given more than once")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="in the long list")
    parser.add_argument("--queued", type=int, default=100_000, help="in the long line")
    parser.add_argument("--listeners", type=int, default=1_000)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the upload")
    parser.add_argument("--turns", type=int, default=2_000, help="requests of each kind and side")
    parser.add_argument("--rounds", type=int, default=3, help="of transfers, and of many clients at once")
    parser.add_argument("--folder", type=Path, help="where everything is written; a temporary folder if left out")
    return parser.parse_args()


def _scenarios(database: DatabaseKind) -> list[str]:
    return [name for name in SCENARIOS if database == "sqlite" or name not in ON_SQLITE_ALONE]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.processor(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    sys.exit(main())
