"""A client that counts what each of its tries came to, also those that `Client.ask` makes good again."""

from collections import Counter

import httpx2

from tests.chaos.clients import Client


class Counted(httpx2.BaseTransport):
    """Counts answers by status, and connections that failed by how."""

    def __init__(self, counts: "Counter[str]") -> None:
        self._inner = httpx2.HTTPTransport(trust_env=False)
        self._counts = counts

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One try."""
        try:
            response = self._inner.handle_request(request)
        except httpx2.TransportError as error:
            self._counts[type(error).__name__] += 1
            raise
        self._counts[str(response.status_code)] += 1
        return response

    def close(self) -> None:
        """Hang up."""
        self._inner.close()


class CountingClient(Client):
    """A chaos client whose tries are counted in `counts`."""

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._http = httpx2.Client(headers=headers, timeout=20, transport=Counted(self.counts))


def server_errors(counts: "Counter[str]") -> int:
    """Answers that say that the service failed."""
    return sum(number for answer, number in counts.items() if answer.startswith("5"))
