"""The one Celery instance: task names, queues, settings, and the doorbell that services ring.

    service --ring--> Redis list of the queue --worker takes it off and acknowledges at once--> claim in the database

The database row is the job. A message carries an id and nothing else: a duplicate is harmless, a lost one is rung
again by the sweeper, and Redis may lose everything. So none of Celery's own state, results, retries, time limits,
schedules or remote control is used, and `app` never imports `worker`: it sends tasks by name.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from celery import Celery
from kombu import Producer, Queue
from redis import Redis
from redis.exceptions import ResponseError

from app.settings import Settings

TaskName = Literal["train", "register", "validate"]
QueueName = Literal["prepare", "cpu", "gpu"]

TASKS: dict[TaskName, str] = {"train": "thaw.train", "register": "thaw.register", "validate": "thaw.validate"}
"""What a task is called on the wire; its one argument is the id of the job, model or dataset."""
QUEUES: tuple[QueueName, ...] = ("prepare", "cpu", "gpu")
"""`prepare`: register and validate; `cpu`, `gpu`: train."""

MAX_WAITING_HINTS = 1000
"""A queue that holds so many hints gets no more: its workers are busy, and what waits for them is rung again later.
Without this, a backlog that is rung again every half minute would fill Redis."""

_SEND_SECONDS = 0.05
"""Bounds each wait of a ring for Redis (connect, write, read), so that a POST never hangs on the broker."""

_REACH_SECONDS = 1.0
"""As much for who asks whether it answers: a slow one is not away. No longer, as requests do not need it: whoever asks
whether the service is ready must not be kept from the rest of the answer."""

_ASK_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def broker_url(settings: Settings) -> str:
    """Where hints go: the Redis or Valkey that is set, else the socket of the embedded server."""
    if settings.redis_url:
        return settings.redis_url.get_secret_value()
    return f"redis+socket://{settings.run_dir() / 'broker.sock'}"


def sending_celery(settings: Settings) -> Celery:
    """For those who ring: gives up within a tenth of a second."""
    return _celery(settings, max_retries=0, socket_timeout=_SEND_SECONDS, socket_connect_timeout=_SEND_SECONDS)


def asking_celery(settings: Settings) -> Celery:
    """For those who ask whether it answers."""
    return _celery(settings, max_retries=0, socket_timeout=_REACH_SECONDS, socket_connect_timeout=_REACH_SECONDS)


def working_celery(settings: Settings) -> Celery:
    """For workers: patient, and connects again for ever. Its tasks are the worker's business."""
    return _celery(settings, socket_timeout=30, socket_connect_timeout=5, health_check_interval=25)


def _celery(settings: Settings, **transport_options: float) -> Celery:
    celery = Celery("thaw", broker=broker_url(settings), set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # Acknowledged on start: a visibility timeout can never run a job a second time, and a lost worker is
        # the lease's business.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        task_queues=[Queue(name) for name in QUEUES],
        task_create_missing_queues=False,
        # A busy worker reserves nothing that an idle one could run.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        # A blip of Redis must not end hours of training; training has nothing to do with the connection.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A broker that answers, but refuses (its disk or its memory is full), passes too.
        broker_channel_error_retry=True,
        broker_use_ssl=_tls(settings),
        broker_transport_options={"global_keyprefix": "thaw:", "socket_keepalive": True, **transport_options},
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return celery


def _tls(settings: Settings) -> dict[str, Any] | bool:
    """`rediss://`: encrypted, and to the host that the certificate names. Kombu alone would believe anybody.

    Options in the URL take the place of these: `?ssl_ca_certs=/path/ca.pem` for a certificate authority of one's own.
    """
    if not broker_url(settings).startswith("rediss://"):
        return False
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


class CeleryDoorbell:
    """Rings workers through Redis. Never raises, and never waits for long."""

    def __init__(self, settings: Settings) -> None:
        self._celery = sending_celery(settings)
        self._asking = asking_celery(settings)
        self._heard = True
        # Celery imports its transport on first use, which would make the first ring take 0.4 s.
        with self._celery.connection_for_write() as connection:
            _ = connection.transport, self._celery.amqp.router, self._celery.amqp.create_task_message

    def ring(self, task: TaskName, identifier: str, *, queue: str) -> bool:
        """Tell the workers of `queue` that there is something to do. False: the broker was not reached.

        That is no failure: the sweeper rings again until somebody has claimed the row.
        """
        error = _tried(self._celery, lambda producer: self._send(producer, TASKS[task], identifier, queue))
        self._note(error)
        return error is None

    def reachable(self) -> bool:
        """Whether Redis answers within a second."""
        return _tried(self._asking, lambda producer: _waiting(producer.channel, QUEUES[0])) is None

    def close(self) -> None:
        """Close the pooled connections."""
        self._celery.close()
        self._asking.close()

    def _note(self, error: Exception | None) -> None:
        """Log the first failure and the first success after it, not every one between."""
        if self._heard and error:
            _log.warning("broker not reached, hints wait for the sweeper", error=repr(error))
        elif not self._heard and not error:
            _log.info("broker reached again")
        self._heard = error is None

    def _send(self, producer: Producer, name: str, identifier: str, queue: str) -> None:
        if _waiting(producer.channel, queue) < MAX_WAITING_HINTS:
            self._celery.send_task(name, args=[identifier], queue=queue, producer=producer, retry=False)


def _tried(celery: Celery, use: Callable[[Producer], object]) -> Exception | None:
    """Why it was not possible, if it was not."""
    started = time.monotonic()
    error: Exception | None = None
    for _ in range(2):  # the first one may find a connection that died in the pool
        try:
            with celery.producer_or_acquire() as producer:
                use(producer)
        except Exception as problem:  # noqa: BLE001 (whatever kombu and redis-py raise: what was to be done is done already)
            error = problem
        else:
            return None
        if time.monotonic() - started > _SEND_SECONDS:
            break
    return error


def _waiting(channel: Any, queue: str) -> int:  # noqa: ANN401 (kombu has no types)
    """Hints in a queue that nobody has taken yet."""
    return int(channel.queue_declare(queue).message_count)


# === What kind of broker it is ===


@dataclass(frozen=True)
class BrokerFacts:
    """How the broker is set up."""

    described: str
    """`valkey 9.1.0`."""
    policy: str | None
    """What it does when its memory is full; `None`: it does not tell."""
    append_only: bool
    """Whether every hint is written down."""
    failing: list[str]
    """What it could not save last time."""


def inspect_broker(settings: Settings) -> BrokerFacts:
    """Ask it. Raises `redis.RedisError` if it does not answer."""
    url = broker_url(settings).replace("redis+socket://", "unix://", 1)
    with Redis.from_url(url, socket_timeout=_ASK_SECONDS, socket_connect_timeout=_ASK_SECONDS) as redis:
        about: dict[str, Any] = {**redis.info("server"), **redis.info("persistence")}
        name = about.get("server_name", "redis")
        saves = ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        return BrokerFacts(
            described=f"{name} {about.get(f'{name}_version', about.get('redis_version', '?'))}",
            policy=_policy(redis),
            append_only=bool(about.get("aof_enabled")),
            failing=[save for save in saves if about.get(save, "ok") != "ok"],
        )


def _policy(redis: Redis) -> str | None:
    try:
        found = dict(redis.config_get("maxmemory-policy"))
    except ResponseError:  # hosted ones often forbid CONFIG
        return None
    return found.get("maxmemory-policy")
