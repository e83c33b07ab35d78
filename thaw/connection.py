"""One HTTP connection pool to the service: errors become ours, and what may be repeated is.

    answer    2xx, 304: the caller's    3xx, 4xx, 5xx: `ApiError` from problem+json    no JSON: `UnexpectedAnswerError`
    failure   could not connect, timed out, was cut: `ConnectionFailedError`

Everything the client sends may be repeated: reads by nature, cancel by contract, creates because they carry an
`Idempotency-Key` that stays the same over all tries, so that the service answers a repetition with the first answer.
"""

import contextlib
import email.utils
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TypeVar

import httpx2

from thaw.errors import ApiError, ConnectionFailedError, ThawClientError, UnexpectedAnswerError, from_problem
from thaw.location import Location
from thaw.retry import RetryPolicy
from thaw.version import version

T = TypeVar("T")
JsonObject = dict[str, object]
Parameters = Mapping[str, str | int | float | None]

LONG_ANSWER_SECONDS = 600.0
"""To wait for an answer before which the service reads and writes gigabytes, on a slow disk."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


class Connection:
    """Sends requests to one service. Safe to share between threads, as `httpx2.Client` is."""

    def __init__(
        self,
        location: Location,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.location = location
        self.retry = retry or RetryPolicy()
        self.sleep = sleep
        self._timeout = timeout
        self._http = _pool(location, transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, *, parameters: Parameters | None = None) -> JsonObject:
        """GET a JSON object."""
        return json_object(self.ask("GET", path, parameters=parameters))

    def get_if_changed(self, path: str, *, etag: str | None) -> tuple[JsonObject | None, str | None]:
        """GET a JSON object and its ETag; no object while it is still the one of `etag` (304)."""
        response = self.ask("GET", path, headers={"If-None-Match": etag} if etag else None)
        if response.status_code == httpx2.codes.NOT_MODIFIED:
            return None, etag
        return json_object(response), response.headers.get("etag")

    def post(self, path: str, *, body: Mapping[str, object], idempotency_key: str | None = None) -> JsonObject:
        """POST a JSON object. Without a key it must be something that the service does only once by itself."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return json_object(self.ask("POST", path, body=body, headers=headers))

    def delete(self, path: str) -> None:
        """DELETE what is there."""
        self.ask("DELETE", path)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        parameters: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a small request, again if need be; its answer is read whole."""
        given = {name: value for name, value in (parameters or {}).items() if value is not None}

        def once() -> httpx2.Response:
            with self.open(method, path, json=body, params=given, headers=headers) as response:
                response.read()
                return response

        return self.insist(once)

    def insist(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it succeeds or the retry policy gives up."""
        failures = 0
        while True:
            try:
                return attempt()
            except (ApiError, ConnectionFailedError) as error:
                failures += 1
                pause = self.retry.pause(error, failures)
                if pause is None:
                    raise
            self.sleep(pause)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str | int | float | None] | None = None,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, IO[bytes]]] | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
        welcome: frozenset[int] = frozenset(),
    ) -> Iterator[httpx2.Response]:
        """Send one request, once; the body of its answer is still to be read, inside the `with`.

        `welcome` names statuses that are no errors here.
        """
        timeout = httpx2.Timeout(self._timeout, connect=min(self._timeout, 5.0), read=read_timeout or self._timeout)
        with (
            _translated(self.location),
            self._http.stream(
                method, path, json=json, params=params, data=data, files=files, headers=headers, timeout=timeout
            ) as response,
        ):
            if response.status_code not in welcome:
                _raise_for_status(response)
            yield response


def json_object(response: httpx2.Response) -> JsonObject:
    """The JSON object in an answer; `UnexpectedAnswerError` if there is none."""
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        kind = response.headers.get("content-type", "no content type")
        message = f"{response.request.url} should answer with a JSON object, but sent {kind}. Is a Thaw service there?"
        raise UnexpectedAnswerError(message)
    return content


def _pool(location: Location, transport: httpx2.BaseTransport | None) -> httpx2.Client:
    python = ".".join(str(part) for part in sys.version_info[:2])
    headers = {"User-Agent": f"thaw/{version()} python/{python}"}
    if location.api_key:
        headers["Authorization"] = f"Bearer {location.api_key}"
    try:
        # A proxy from the environment cannot reach this machine's loopback address.
        local = httpx2.URL(location.url).host in _LOOPBACK
        return httpx2.Client(base_url=location.url, headers=headers, transport=transport, trust_env=not local)
    except (httpx2.InvalidURL, UnicodeEncodeError) as error:
        message = f"The service's URL {location.url!r} or its API key cannot be used: {error}."
        raise ThawClientError(message) from error


@contextlib.contextmanager
def _translated(location: Location) -> Iterator[None]:
    """Turn the HTTP library's errors into ours."""
    try:
        yield
    except httpx2.LocalProtocolError as error:
        message = f"The request could not be sent: {error}."
        raise ThawClientError(message) from error
    except httpx2.TransportError as error:
        reached = not isinstance(error, _NEVER_CONNECTED)
        raise ConnectionFailedError(_failure(location, error, reached=reached), reached=reached) from error
    except httpx2.DecodingError as error:
        message = f"The answer of {location.url} cannot be decoded: {error}."
        raise UnexpectedAnswerError(message) from error


def _failure(location: Location, error: httpx2.TransportError, *, reached: bool) -> str:
    reason = str(error) or type(error).__name__
    if reached:
        return f"The connection to Thaw at {location.url} broke: {reason}."
    return (
        f"Thaw does not answer at {location.url} (from {location.found_in}): {reason}. "
        "Is it running? `thaw up` starts one on this machine."
    )


def _raise_for_status(response: httpx2.Response) -> None:
    if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
        return
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"{response.request.url} answered with status {response.status_code} and no explanation."}
    if response.is_redirect:
        problem["detail"] = f"The service is elsewhere: {response.headers.get('location')}. Use that URL."
    problem.setdefault("request_id", response.headers.get("x-request-id"))
    raise from_problem(response.status_code, problem, retry_after=_retry_after(response))


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, given as a number or as a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
