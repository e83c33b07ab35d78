"""How often, and after which pauses, a request is repeated."""

import random
from dataclasses import dataclass

from thaw.errors import ApiError, ConflictError, ConnectionFailedError, ThawClientError

_PASSING = frozenset({429, 502, 503, 504})
_LONGEST_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats what may pass: cut connections, 429, 502, 503, 504, and a create that is still being answered."""

    retries: int = 4
    connect_retries: int = 2
    """Fewer, so that a service that does not run is reported within a second."""
    in_flight_retries: int = 12
    """More: the key of a request whose process died is free after a minute, and the service says when to ask again."""
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 8.0

    def pause(self, error: ThawClientError, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; `None`: give up."""
        if failures > self._allowed(error):
            return None
        asked = error.retry_after if isinstance(error, ApiError) else None
        if asked is not None:
            return min(asked, _LONGEST_RETRY_AFTER_SECONDS)
        ceiling = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** (failures - 1))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (spreads clients out, is no secret)

    def _allowed(self, error: ThawClientError) -> int:
        if isinstance(error, ConnectionFailedError):
            return self.retries if error.reached else min(self.retries, self.connect_retries)
        if isinstance(error, ConflictError) and error.code == "idempotency_in_flight":
            return self.in_flight_retries if self.retries else 0
        passing = isinstance(error, ApiError) and error.status in _PASSING
        return self.retries if passing else 0
