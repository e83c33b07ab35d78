"""The Python client: everything that the service can do, from Python.

from thaw import Client

with Client() as thaw:                                  # finds the service that runs on this machine
    model = thaw.models.push("digits_0_to_7.keras")
    data = thaw.datasets.push("digits_8_and_9.npz")
    job = thaw.jobs.create(model=model.id, training_file=data.id)
    for event in thaw.jobs.events(job.id):
        print(event.message)
    thaw.jobs.download(job.id, "model.keras")
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from thaw.connection import Connection, json_object
from thaw.location import find
from thaw.records import Capabilities, Health, read
from thaw.resources.datasets import Datasets
from thaw.resources.files import Files
from thaw.resources.jobs import Jobs
from thaw.resources.models import Models
from thaw.retry import RetryPolicy


class Client:
    """A connection to a Thaw service, with one attribute for each resource; safe to share between threads.

    Args:
        base_url: Such as `http://127.0.0.1:8420`. Left out: THAW_URL, else the service that `thaw up` runs here.
        api_key: Left out: THAW_API_KEY, else the file THAW_API_KEY_FILE, else the local service's key (which is
            sent to the local service only).
        api_key_file: A file that holds the key, instead of `api_key`.
        timeout: Seconds until a request is given up that brings nothing; 5 s at most for connecting.
        max_retries: How often a request is repeated that failed in a way that may pass. All that the client sends
            can be repeated without having happened twice.
        transport: For tests: `httpx2.MockTransport(handler)`.

    Raises:
        ServiceNotFoundError: No URL was given and none was found.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        api_key_file: Path | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        location = find(base_url, api_key, api_key_file)
        connection = Connection(location, timeout=timeout, retry=RetryPolicy(retries=max_retries), transport=transport)
        self._connection = connection
        self.files = Files(connection)
        self.models = Models(connection)
        self.datasets = Datasets(connection)
        self.jobs = Jobs(connection)

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.location.url

    def capabilities(self) -> Capabilities:
        """What the service can do, and which workers are there."""
        return read(Capabilities, self._connection.get("/v1/capabilities"))

    def health(self) -> Health:
        """Whether all parts of the service answer; asked once, without a key."""
        with self._connection.open("GET", "/readyz", welcome=frozenset({503})) as response:
            response.read()
            return read(Health, json_object(response))

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
