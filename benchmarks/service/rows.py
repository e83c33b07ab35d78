"""Very many jobs, made in the database itself: copies of the ones that are there, each with its own id and times.

    jobs in the database, by age -> slots 0 .. k-1        the n-th copy is of slot n modulo k

So any k copies in a row are the same mixture, and a page of a long list weighs what a page of a short one does.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sites import Site
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    Table,
    TableClause,
    Text,
    case,
    cast,
    column,
    create_engine,
    func,
    insert,
    literal,
    select,
    table,
    text,
)

from app.storage.database import sqlite_library
from app.storage.tables import METADATA

BATCH = 50_000
YEAR_SECONDS = 365 * 86_400.0
RARE = 25
"""Of a list of any length, so many jobs have the rare model, and as many others the rare team."""
RARE_MODEL = "model-rare"
RARE_TEAM = "rare"
KEYS = 5
"""API keys that have jobs in the line."""

Vary = Callable[[ColumnElement[int], TableClause], Mapping[str, ColumnElement[Any]]]
"""From the number of a copy and its original to what is different in the copy."""

TEMPLATES = (
    (
        "CREATE TEMPORARY TABLE original_jobs AS "
        "SELECT row_number() OVER (ORDER BY created_at, id) - 1 AS slot, jobs.* FROM jobs"
    ),
    (
        "CREATE TEMPORARY TABLE original_pairs AS "
        "SELECT slot, job_metadata.* FROM job_metadata JOIN original_jobs ON original_jobs.id = job_id"
    ),
    (
        "CREATE TEMPORARY TABLE original_events AS SELECT slot, events.* FROM events "
        "JOIN original_jobs ON original_jobs.id = job_id WHERE number IN (1, event_count)"
    ),
)


def job_id(number: int) -> str:
    """The id of the `number`-th copy, from 1; as long as real ones, and older."""
    return f"ftjob-01jd8k2v7e00000000{number:08d}"


@dataclass(frozen=True)
class Copies:
    """So many, one after the other through the last year, up to an hour ago."""

    count: int
    start: float

    def created_at(self, number: Any) -> Any:  # noqa: ANN401 (a number, or a column of them)
        """When the `number`-th was made."""
        return self.start + number * (YEAR_SECONDS / self.count)


def fill(site: Site, count: int, *, vary: Vary) -> Copies:
    """Copy the jobs that are there, with their metadata and their first and last events, up to `count` of them."""
    site.services.db.engine.dispose()  # a change of SQLite's journal needs the file for itself
    engine, copies = _fast(site), Copies(count, start=time.time() - 3600 - YEAR_SECONDS)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000", "temp_store = MEMORY"):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            connection.commit()
        for statement in TEMPLATES:
            connection.execute(text(statement))
        slots = connection.execute(text("SELECT count(*) FROM original_jobs")).scalar_one()
        for first in range(1, count + 1, BATCH):
            _copy(connection, first, min(first + BATCH - 1, count), slots=slots, of=copies, vary=vary)
            connection.commit()
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE) jobs, job_metadata, events"))
            connection.execute(text("CHECKPOINT"))
    engine.dispose()
    return copies


def _fast(site: Site) -> Engine:
    url = site.settings.resolved_database_url()
    if url.startswith("sqlite"):
        return create_engine(url, module=sqlite_library())
    return create_engine(url, connect_args={"options": "-c synchronous_commit=off"})


def _copy(connection: Connection, first: int, last: int, *, slots: int, of: Copies, vary: Vary) -> None:
    for name, original in (
        ("jobs", "original_jobs"),
        ("job_metadata", "original_pairs"),
        ("events", "original_events"),
    ):
        target = METADATA.tables[name]
        source = table(original, column("slot"), *(column(each.name) for each in target.columns))
        start = select(literal(first).label("n")).cte("numbers", recursive=True)
        numbers = start.union_all(select(start.c.n + 1).where(start.c.n < last))
        values = {**_same(target, source), **_moved(numbers.c.n, target, source, of=of), **vary(numbers.c.n, source)}
        copies = select(*(values[each.name].label(each.name) for each in target.columns))
        copies = copies.select_from(numbers.join(source, source.c.slot == numbers.c.n % slots))
        connection.execute(insert(target).from_select([each.name for each in target.columns], copies))


def _same(target: Table, source: TableClause) -> dict[str, ColumnElement[Any]]:
    return {each.name: source.c[each.name] for each in target.columns}


def _moved(n: ColumnElement[int], target: Table, source: TableClause, *, of: Copies) -> dict[str, ColumnElement[Any]]:
    """Its id, and its times."""
    prefix = job_id(0)[:-8]
    identifier = literal(prefix, Text).concat(func.substr(cast(literal(100_000_000) + n, Text), 2))
    created_at = cast(of.created_at(cast(n, Double)), Double)
    moved: dict[str, ColumnElement[Any]] = {"id" if target.name == "jobs" else "job_id": identifier}
    for name in ("created_at", "updated_at", "started_at", "finished_at", "rung_at"):
        if name in target.columns:
            moved[name] = source.c[name] - source.c.created_at + created_at if name != "created_at" else created_at
    return moved


# === What differs ===


def history(count: int) -> Vary:
    """Of jobs that have ended: a few with a model or a team that is rare."""

    def vary(n: ColumnElement[int], original: TableClause) -> dict[str, ColumnElement[Any]]:
        every = count // RARE
        if original.name == "original_jobs":
            return {"model_id": case((n % every == 3, RARE_MODEL), else_=original.c.model_id)}
        if original.name == "original_pairs":
            rare = (n % every == 5) & (original.c.key == "team")
            return {"value": case((rare, RARE_TEAM), else_=original.c.value)}
        return {}

    return vary


def line(n: ColumnElement[int], original: TableClause) -> dict[str, ColumnElement[Any]]:
    """Of jobs that wait: several API keys, some more and some less urgent than most, all rung just now."""
    if original.name != "original_jobs":
        return {}
    return {
        "api_key_id": literal("key-", Text).concat(cast(n % KEYS, Text)),
        "priority": case((n % 20 == 0, 0), (n % 20 == 1, 2), else_=1),
        "rung_at": literal(time.time(), Double),
    }
