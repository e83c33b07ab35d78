"""All checks in order. What one check cannot find out is a finding, and the others go on."""

from collections.abc import Callable, Sequence
from contextlib import closing

from pydantic import SecretStr
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.doctor import keeping, working
from app.doctor.finding import Finding, problem
from app.domain.errors import ThawError
from app.services import context
from app.services.context import Services
from app.settings import Settings
from app.standalone import broker

Check = Callable[[Services], Finding]

OF_FILES: Sequence[tuple[str, Check]] = (
    ("file system", keeping.file_system),
    ("room", keeping.room),
    ("store", keeping.store),
    ("API key", keeping.key_file),
)
OF_BROKER: Sequence[tuple[str, Check]] = (
    ("broker policy", working.broker_policy),
    ("broker persistence", working.broker_persistence),
)
OF_DATABASE: Sequence[tuple[str, Check]] = (
    ("database version", keeping.database_version),
    ("durability", keeping.durability),
    ("writing", keeping.writing),
    ("artifacts", keeping.pairing_of_store),
    ("clock", working.clock),
    ("workers", working.live_workers),
    ("queues", working.queues),
    ("devices", working.devices),
)
"""Only if it answers and has its tables."""


def examine(settings: Settings) -> list[Finding]:
    """Everything, with the settings of the service that runs, or would run, on this machine."""
    settings = _as_run(settings)
    missing = keeping.missing_database(settings)
    if missing is not None:
        return [missing]
    try:
        services = context.build(settings)
    except (OSError, ThawError) as error:
        said = error.message if isinstance(error, ThawError) else str(error)
        return [problem("settings", f"the service cannot be built: {said}", "Change what it names, then ask again.")]
    with closing(services.db):
        database, reached = keeping.database(services), working.broker_reached(services)
        findings = [database, *_all(OF_FILES, services), reached]
        findings += _all(OF_BROKER, services) if reached.verdict == "ok" else []
        findings += _all(OF_DATABASE, services) if database.verdict == "ok" else []
        return findings


def _as_run(settings: Settings) -> Settings:
    """As `thaw up` sees them: a whole path, and the socket of its own broker if no other one is set."""
    folder = settings.data_dir.resolve()
    settings = settings.model_copy(update={"data_dir": folder})
    if settings.redis_url:
        return settings
    url = broker.broker_url(broker.socket_path(settings.run_dir()))
    return settings.model_copy(update={"redis_url": SecretStr(url)})


def _all(checks: Sequence[tuple[str, Check]], services: Services) -> list[Finding]:
    return [_found(name, check, services) for name, check in checks]


def _found(name: str, check: Check, services: Services) -> Finding:
    try:
        return check(services)
    except (SQLAlchemyError, RedisError, OSError, ThawError) as error:
        # Without the text of the driver's errors, which may hold a URL.
        said = error.message if isinstance(error, ThawError) else type(error).__name__
        return problem(name, f"could not be found out: {said}", "Mend what is wrong above, then ask again.")
