"""The broker's messages, as a bad broker would deliver them: twice, in another order, and long after they were sent."""

import random
from typing import Any

from app.queue import QUEUES

_KEY = "thaw:{queue}"
"""The list that Kombu keeps the messages of a queue in."""
_REMEMBERED = 20
_OLD = 2
"""Messages of earlier times that come again."""


class Messages:
    """Remembers what it saw."""

    def __init__(self) -> None:
        self._seen: dict[str, list[bytes]] = {queue: [] for queue in QUEUES}

    def shuffle(self, broker: Any, chance: random.Random) -> int:
        """Put back everything twice and shuffled, with some of what lay there before; how many were put there."""
        return sum(self._shuffle(broker, queue, chance) for queue in QUEUES)

    def _shuffle(self, broker: Any, queue: str, chance: random.Random) -> int:
        key, seen = _KEY.format(queue=queue), self._seen[queue]
        with broker.pipeline(transaction=True) as together:
            taken: list[bytes] = together.lrange(key, 0, -1).delete(key).execute()[0]
        again = [*taken, *taken, *chance.sample(seen, min(_OLD, len(seen)))]
        chance.shuffle(again)
        if again:
            broker.rpush(key, *again)
        self._seen[queue] = [*seen, *taken][-_REMEMBERED:]
        return len(again)
