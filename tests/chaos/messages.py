"""The broker's messages, as a bad broker would deliver them: twice, in another order, and long after they were sent."""

import contextlib
import json
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import redis

from app.queue import QUEUES

_KEYS = {queue: f"thaw:{queue}" for queue in QUEUES}
"""The list that Kombu keeps the messages of a queue in."""
_REMEMBERED = 20
_AGAIN = 4
"""Messages of the last minutes that come once more."""
_PAUSE_SECONDS = 0.5


class Messages:
    """Remembers what is sent, in a thread of its own: where workers wait, a message never lies in a list."""

    def __init__(self, connect: Callable[[], "redis.Redis"]) -> None:
        """`connect`: to the broker, with a timeout."""
        self._connect = connect
        self._sent = {key: deque[str](maxlen=_REMEMBERED) for key in _KEYS.values()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="messages", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()

    @property
    def seen(self) -> int:
        """Messages that are remembered."""
        return sum(len(sent) for sent in self._sent.values())

    def shuffle(self, broker: Any, chance: random.Random) -> int:
        """Put back everything twice and shuffled, with some of what was sent before; how many were put there."""
        return sum(self._shuffle(broker, key, chance) for key in self._sent)

    def _shuffle(self, broker: Any, key: str, chance: random.Random) -> int:
        with broker.pipeline(transaction=True) as together:
            taken: list[bytes] = together.lrange(key, 0, -1).delete(key).execute()[0]
        sent = list(self._sent[key])
        again = [*taken, *taken, *chance.sample(sent, min(_AGAIN, len(sent)))]
        chance.shuffle(again)
        if again:
            broker.rpush(key, *again)
        return len(again)

    def _watch(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(redis.RedisError, OSError):  # it is away, or silent for so long
                self._listen()
            self._over.wait(_PAUSE_SECONDS)

    def _listen(self) -> None:
        with self._connect() as broker, broker.monitor() as monitor:
            for each in monitor.listen():
                self._remember(*each["command"].split(" ", 2))
                if self._over.is_set():
                    return

    def _remember(self, command: str, key: str = "", message: str = "", *_: str) -> None:
        if command != "LPUSH" or key not in self._sent or message in self._sent[key]:
            return
        with contextlib.suppress(ValueError):  # spelled otherwise than it was sent
            json.loads(message)
            self._sent[key].append(message)
