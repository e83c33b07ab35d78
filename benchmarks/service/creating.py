"""Creating jobs: their model and dataset are ready, so each is queued at once.

A job is on the disk before it is answered. What that costs is told in two ways: by one commit of one row on the same
disk, and by the same API on a database that is never synced (SQLite: in memory; PostgreSQL: `synchronous_commit=off`).
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import things
from connection import Connection
from figures import Call, Line, Taken, in_turns, percentile, times
from servers import Server
from sites import Bench, Site
from sqlalchemy import create_engine

from app.storage.database import sqlite_library

JOBS = "/v1/fine_tuning/jobs"
CLIENTS = 8
SECONDS = 3.0
ROW_BYTES = 8_000
INSERT = {"sqlite": "INSERT INTO rows (body) VALUES (?)", "postgresql": "INSERT INTO rows (body) VALUES (%s)"}


def measure(bench: Bench) -> list[Line]:
    """One client, then several at once."""
    with contextlib.ExitStack() as stack:
        site = bench.site("creating")
        thaw = _Creator(stack.enter_context(site.api()), site)
        bare = _Bare(bench.bare, thaw)
        unsynced = stack.enter_context(_unsynced(bench, site))
        askers = {"thaw": thaw, "bare": bare, **({} if unsynced is None else {"unsynced": unsynced})}
        sides: dict[str, Call] = {name: each.one for name, each in askers.items()}
        sides["commit"] = stack.enter_context(_commits(bench))
        _warm(sides)
        servers = {name: each.server for name, each in askers.items()}
        taken = in_turns(sides, turns=bench.sizes.turns // 2, workers=servers)
        lines = [
            times(what, taken[name], against="bare route", other=taken["bare"])
            for what, name in (("create a job", "thaw"), ("create a job, nothing synced", "unsynced"))
            if name in taken
        ]
        lines.append(times("commit of one row", taken["commit"], against="create a job", other=taken["thaw"]))
        return lines + _at_once(thaw, bare, rounds=bench.sizes.rounds)


class _Creator:
    """Creates jobs at an API."""

    def __init__(self, server: Server, site: Site) -> None:
        self.server = server
        self.body = things.body(things.model(site.services, "mobilenet"), things.dataset(site.services))
        self._connection = server.connect()
        self.request = self._connection.request("POST", JOBS, body=self.body)

    def one(self) -> bytes:
        """The answer."""
        return self._connection.ask(self.request, status=201).body


class _Bare:
    """Sends the same body to the bare route, which gives the same answer."""

    def __init__(self, server: Server, thaw: _Creator) -> None:
        self.server = server
        self._connection = server.connect()
        self._connection.put("/payloads/job", thaw.one())
        self.request = self._connection.request("POST", "/payloads/job", body=thaw.body)

    def one(self) -> bytes:
        return self._connection.ask(self.request, status=201).body


def _warm(sides: dict[str, Call]) -> None:
    for call, _ in itertools.product(sides.values(), range(20)):
        call()


# === What a durable commit costs ===


@contextlib.contextmanager
def _commits(bench: Bench) -> Iterator[Call]:
    """One row in a transaction of its own, by the driver alone, in a database beside Thaw's."""
    if bench.database == "sqlite":
        arguments = {"module": sqlite_library()}
        engine = create_engine(f"sqlite:///{bench.folder / 'commits.db'}", **arguments)
        pragmas = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
    else:
        engine, pragmas = create_engine(bench.postgres.create_database("commits")), ()
    connection = engine.raw_connection()
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(pragma)
    cursor.execute("CREATE TABLE rows (body TEXT)")
    connection.commit()

    def commit() -> None:
        cursor.execute(INSERT[bench.database], ("x" * ROW_BYTES,))
        connection.commit()

    yield commit
    connection.close()
    engine.dispose()


@contextlib.contextmanager
def _unsynced(bench: Bench, site: Site) -> Iterator[_Creator | None]:
    """The same API where no commit waits for a disk; `None` where that cannot be had."""
    with bench.folder_in_memory() as folder:
        if bench.database == "postgresql":
            url = f"{site.settings.resolved_database_url()}&options=-csynchronous_commit%3Doff"
            with site.api(database_url=url) as server:
                yield _Creator(server, site)
        elif folder is None:
            yield None
        else:
            other = bench.site("creating", folder=folder)
            with other.api() as server:
                yield _Creator(server, other)
            other.services.db.close()


# === Many at once ===


def _at_once(thaw: _Creator, bare: _Bare, *, rounds: int) -> list[Line]:
    """Clients that all send as fast as they are answered, for some seconds at one side and then at the other."""
    taken = {"thaw": Taken(), "bare": Taken()}
    rates: dict[str, list[float]] = {"thaw": [], "bare": []}
    for _ in range(rounds):
        for name, side in (("thaw", thaw), ("bare", bare)):
            seconds = _pressed(side.server, side.request)
            taken[name].seconds += seconds
            rates[name].append(len(seconds) / SECONDS)
    thaw_rate, bare_rate = (percentile(rates[name], 50) for name in ("thaw", "bare"))
    return [
        times(f"create, {CLIENTS} clients at once", taken["thaw"], against="bare route", other=taken["bare"]),
        Line(f"created by {CLIENTS} clients", "jobs/s", {"": thaw_rate}, "bare route", {"": bare_rate}),
    ]


def _pressed(server: Server, request: bytes) -> list[float]:
    """Seconds that each answer took."""
    taken: list[float] = []
    connections = [server.connect() for _ in range(CLIENTS)]
    threads = [threading.Thread(target=_press, args=(each, request, taken)) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    return taken


def _press(connection: Connection, request: bytes, taken: list[float]) -> None:
    until = time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < until:
        connection.ask(request, status=201)
        taken.append(time.perf_counter() - started)
