"""Connections to PostgreSQL: how many, how patient, with what of the environment, and why the server refuses one."""

import os
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

POOL: Mapping[str, Any] = {"pool_size": 5, "max_overflow": 10, "pool_pre_ping": True}
"""A connection is a process of the server, which has 100 by default, for all API and worker processes together.

One may have died while it lay in the pool (the server restarted, a firewall forgot it): each is tried before use.
"""
ISOLATION = "READ COMMITTED"
"""What every guard is written for: an UPDATE that waited for a row looks at it again. A server, database or role may
have a stricter one as its default, and then the slower of two would get an error instead.
"""

CONNECTION: Mapping[str, str | int] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""A server that vanished without a word is noticed in half a minute instead of two hours. What the URL says wins."""
IDLE_SECONDS = 10
"""Longest pause between two statements of a transaction, which ours do not make: PostgreSQL ends one whose process was
stopped or cut off. It would hold its rows, so that nobody could take back the job of a dead worker."""

_REFUSAL = re.compile(
    r"password authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects|role .* does not exist"
    r"|is not permitted to log in"
)
"""What SQLSTATE class 28 says; libpq tells the text alone of an error that ends a connection's start."""

_AWAY = {"25006", "25P03"}
"""SQLSTATEs of a server that takes no writes (a standby), and of one that ended an idle transaction."""


def engine(url: str, **options: Any) -> Engine:  # noqa: ANN401 (as they are for `create_engine`)
    """The connections to that database."""
    made = create_engine(
        url,
        connect_args=_arguments(make_url(url)),
        isolation_level=ISOLATION,
        hide_parameters=True,
        **POOL,
        **options,
    )
    event.listen(made, "connect", _prepare)
    event.listen(made, "handle_error", _understand, retval=True)
    return made


def _arguments(url: URL) -> dict[str, str | int]:
    """What the URL leaves open. What it says wins over the environment, and that over ours."""
    of_url = url.get_dialect()().create_connect_args(url)[1]
    # Of several hosts without ports SQLAlchemy makes ports that are empty: `,`.
    given = {name for name, value in of_url.items() if str(value).strip(",")}
    arguments = {**CONNECTION, **(_variables() if "service" in given else _environment())}
    return {name: value for name, value in arguments.items() if name not in given}


def _environment() -> dict[str, str]:
    """What libpq finds now in variables (`PGSSLMODE`, `PGPASSWORD`, …), and in the service that `PGSERVICE` names.

    It would look again for each connection, and a worker's environment is empty by then: its connections would have no
    password, or, worse, not check the server that they were told to check.
    """
    from psycopg import pq

    return {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None and option.val != option.compiled
    }


def _variables() -> dict[str, str]:
    """The variables alone.

    What `PGSERVICE` names and the system's name of the user, which libpq finds as well, would win over a service that
    the URL names.
    """
    from psycopg import pq

    options = [
        (option.keyword.decode(), option.envvar.decode()) for option in pq.Conninfo.get_defaults() if option.envvar
    ]
    return {keyword: os.environ[variable] for keyword, variable in options if variable in os.environ}


def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 (a DBAPI connection, which has no type of its own)
    connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_SECONDS * 1000)}")
    connection.commit()


def _understand(context: ExceptionContext) -> DBAPIError | None:
    """Every way in which a database is away becomes an `OperationalError`, and no error tells a row.

    Connections to a standby are given up, all of them: the next ones may find the server that takes writes.
    """
    from psycopg import Error

    error, reason = context.sqlalchemy_exception, context.original_exception
    if not isinstance(error, DBAPIError) or not isinstance(reason, Error):
        return None
    if isinstance(error, IntegrityError):
        reason.args = (reason.diag.message_primary,)  # its DETAIL tells what the row has
        return IntegrityError(error.statement, error.params, reason, hide_parameters=True)
    if context.is_disconnect or reason.sqlstate in _AWAY:
        context.is_disconnect = True
        return OperationalError(
            error.statement, error.params, reason, hide_parameters=True, connection_invalidated=True
        )
    return None


def refuses(error: DBAPIError) -> bool:
    """Whether the server answered, and lets this user not in: not one that is away, which is worth waiting for.

    A wrong password is recognized by the English text alone, a missing one in every language.
    """
    needs_password = getattr(getattr(error.orig, "pgconn", None), "needs_password", False)
    return bool(needs_password or _REFUSAL.search(str(error.orig)))
