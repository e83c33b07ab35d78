"""Rows as each revision of the schema has held them: `rows/<revision>.json`, written by the services of their day.

python -m tests.app.upgrades.rows          the newest revision's, to be committed with its migration
python -m tests.app.upgrades.rows 0005     the same rows, downgraded to an older revision, where that was forgotten
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import Connection, MetaData, select

from app.domain.artifacts import Blob
from app.domain.errors import Failure
from app.domain.model import ModelOptions
from app.domain.worker import WorkerCapabilities
from app.services import again, claims, failing, idempotency, jobs, keys, models, reports, uploads, workers
from app.services.context import Services
from app.services.idempotency import StoredAnswer
from app.settings import Settings
from app.storage.database import Database, configuration, schema_of, upgrade
from app.storage.local import LocalArtifacts
from tests.app.conftest import PROJECT, Bell, World

FOLDER = Path(__file__).parent / "rows"
Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""By table."""

# === Files and databases ===


def read(revision: str) -> Rows:
    """The rows of a revision; fails where there are none."""
    path = FOLDER / f"{revision}.json"
    assert path.is_file(), f"{path} is missing: python -m tests.app.upgrades.rows {revision}"
    found: Rows = json.loads(path.read_text(encoding="utf-8"))
    return found


def insert(connection: Connection, rows: Rows) -> None:
    """Write rows into tables as they are in this database."""
    for table in _tables(connection).sorted_tables:
        for row in rows.get(table.name, []):
            # A value that is left out is NULL; JSON's own null would be another one.
            connection.execute(table.insert().values({name: value for name, value in row.items() if value is not None}))


def dump(connection: Connection) -> Rows:
    """All rows of this database, but the project that the first migration makes."""
    found: Rows = {}
    for table in _tables(connection).sorted_tables:
        statement = select(table).order_by(*table.primary_key.columns)
        found[table.name] = [dict(row) for row in connection.execute(statement).mappings()]
    found["projects"] = [row for row in found["projects"] if row["id"] != PROJECT]
    return {name: rows for name, rows in found.items() if rows and name != "alembic_version"}


def _tables(connection: Connection) -> MetaData:
    tables = MetaData()
    tables.reflect(connection)
    return tables


# === Rows ===


def fill(world: World) -> None:
    """A little of everything, jobs in every status among it."""
    services = world.services
    _around(services)
    model, dataset = world.model(), world.dataset()
    _unready(world)
    same = {"model": model.id, "training_file": dataset.id, "seed": 7}
    world.job(**same, metadata={"team": "shoes", "run": "1"}, suffix="first")
    world.job(**same, priority="high", max_seconds=3600, deadline_at=9e9)
    world.job(model=world.file("waits.keras").id, training_file=dataset.id, seed=7)
    _told(world, world.claim(world.job(**same)))
    jobs.request_pause(services, PROJECT, world.job(**same).id)
    failing.attempt_failed(services, _told(world, world.claim(world.job(**same))), _failure("platform", "storage_full"))
    jobs.request_cancel(services, PROJECT, world.job(**same).id)
    lost = world.claim(world.job(**same))
    claims.release(services, lost, charge_attempt=True)
    again_lost = world.claim(lost.job)
    _told(world, again_lost)
    jobs.request_cancel(services, PROJECT, again_lost.identifier)
    failed = reports.fail_job(services, _told(world, world.claim(world.job(**same))), _failure("user", "diverged"))
    again.retry(services, PROJECT, failed.id, again.RetryRequest(priority="low"))
    done = world.succeed(_told(world, world.claim(world.job(**same))))
    again.fork(services, PROJECT, done.id, again.ForkRequest(schedule=[{"name": "more", "epochs": 2}]))


def _failure(error_class: Any, code: str) -> Failure:
    return Failure(error_class=error_class, code=code, message="It did not work.", phase="head")


def _around(services: Services) -> None:
    """What is not about jobs."""
    _uploads(services)
    keys.ensure_admin_key(services)
    workers.announce(services, worker="worker-1", capabilities=WorkerCapabilities(queues=["cpu"], devices=["cpu"]))
    idempotency.begin(services, PROJECT, key="in flight", fingerprint="f")
    idempotency.begin(services, PROJECT, key="answered", fingerprint="f")
    answer = StoredAnswer(201, {"Location": "/v1/files/file-1"}, "{}")
    idempotency.once(idempotency.joined(services), PROJECT, key="answered", make=lambda: answer)


def _uploads(services: Services) -> None:
    """One that waits for more, and one that is over."""
    about = {"filename": "large.zip", "purpose": "fine-tune", "mime_type": "application/zip"}
    pending = uploads.create(services, PROJECT, size=10, sha256="e" * 64, **about)
    content, sealed = (Blob(sha256=digit * 64, bytes=4) for digit in "ab")
    uploads.add_part(services, PROJECT, pending.id, number=1, content=content, sealed=sealed)
    uploads.cancel(services, PROJECT, uploads.create(services, PROJECT, size=10, **about).id)


def _unready(world: World) -> None:
    """A file, and models that are being checked, have failed, and have a name."""
    world.file("unused.csv")
    options = ModelOptions(rescale="zero_to_one", labels=["a", "b"])
    models.register(world.services, PROJECT, file_id=world.file("new.keras").id, name="new", options=options)
    bad = models.register(world.services, PROJECT, file_id=world.file("bad.keras").id, name=None, options=options)
    claim = claims.claim_model(world.services, bad.id, worker="worker-1")
    assert claim is not None
    reports.fail_model(world.services, claim, _failure("user", "unusable_source"))
    models.register_named(
        world.services, PROJECT, reference="keras:MobileNetV2", name=None, options=ModelOptions(labels=["a"])
    )


def _told(world: World, claim: claims.JobClaim) -> claims.JobClaim:
    """It trained a phase, and kept what it would go on from."""
    told = [world.epoch(epoch) for epoch in (1, 2)]
    end = world.phase_end()
    weights = {end.checkpoint: world.artifact("1.weights")}
    reports.progress(world.services, claim, [*told, end], checkpoints=weights)
    world.keep(claim, 1, step=20, epoch=2)
    return claim


# === The command ===


def _lines(rows: Rows) -> str:
    """JSON with a line for each row."""
    tables = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in found) + "\n]"
        for name, found in rows.items()
    ]
    return "{\n" + ",\n".join(tables) + "\n}\n"


def main(revision: str | None) -> None:
    """Write the file of a revision; `None`: of the newest."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        db = Database(settings.resolved_database_url())
        upgrade(db)
        store = LocalArtifacts(settings.artifacts_dir())
        fill(World(Services(settings=settings, db=db, store=store, doorbell=Bell())))
        with db.begin() as session:
            if revision is not None:
                command.downgrade(configuration(session.connection()), revision)
            at, rows = schema_of(session).at, dump(session.connection())
        db.close()
    path = FOLDER / f"{at}.json"
    path.write_text(_lines(rows), encoding="utf-8")
    sys.stdout.write(f"{path}: {sum(map(len, rows.values()))} rows in {len(rows)} tables\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
