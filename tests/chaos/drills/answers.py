"""A client that counts what each of its tries came to, also those that `Client.ask` makes good again.

Each try has a request id of its own, by which the API's log says whether it read the request. That tells a request that
was cut off in progress, which an API that leaves in order must not do, from two others that may be:

    refused                 nobody listened, or accepted: no connection was made
    closed without a read   a connection that was kept alive, or had just been made, was closed before the request came.
                            HTTP allows that at any moment (RFC 9112, 9.3.1), and to ask again is safe: nobody began

A client cannot tell the last from a cut by itself: both look like the end of a connection without an answer.
"""

import uuid
from collections import Counter
from collections.abc import Iterable

import httpx2

from tests.chaos.clients import Client

NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Counted(httpx2.BaseTransport):
    """Counts answers by status, and connections that failed by how.

    `broken` gets the request ids of tries that had a connection, and no whole answer.
    """

    def __init__(self, counts: "Counter[str]", broken: list[str], *, inner: httpx2.BaseTransport | None = None) -> None:
        self._inner = inner or httpx2.HTTPTransport(trust_env=False)
        self._counts = counts
        self._broken = broken

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One try, to the last byte of its answer."""
        identifier = request.headers["X-Request-Id"] = f"try-{uuid.uuid4().hex}"
        try:
            response = self._inner.handle_request(request)
            response.read()
        except httpx2.TransportError as error:
            self._counts[type(error).__name__] += 1
            if not isinstance(error, NOT_CONNECTED):
                self._broken.append(identifier)
            raise
        self._counts[str(response.status_code)] += 1
        return response

    def close(self) -> None:
        """Hang up."""
        self._inner.close()


class CountingClient(Client):
    """A chaos client whose tries are counted in `counts`; `broken`: see `Counted`."""

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._http = httpx2.Client(headers=headers, timeout=20, transport=Counted(self.counts, self.broken))


def server_errors(counts: "Counter[str]") -> int:
    """Answers that say that the service failed."""
    return sum(number for answer, number in counts.items() if answer.startswith("5"))


def cut_off(broken: Iterable[str], logs: str) -> list[str]:
    """Of the tries that broke, those that an API had read: it logs each at its end, be it an answer or not."""
    return [identifier for identifier in broken if identifier in logs]
