"""A plain HTTP/1.1 client: one kept connection, requests made beforehand, nothing parsed that nobody looks at.

A richer client takes longer than the servers that are compared here.
"""

import itertools
import json
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

BUFFER_BYTES = 1024**2
IDLE_SECONDS = 4.0
"""Uvicorn closes connections on which nothing was asked for 5 s."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WITHOUT_BODY = {204, 304}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    head: bytes
    """Status line and headers as they were sent."""
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header. Raises `KeyError`."""
        found = re.search(rb"\r\n" + re.escape(name.encode()) + rb": *([^\r]*)", self.head, re.IGNORECASE)
        if found is None:
            raise KeyError(name)
        return found[1].decode()

    def json(self) -> Any:  # noqa: ANN401 (JSON of any shape)
        """The body, parsed."""
        return json.loads(self.body)


class UnexpectedAnswerError(Exception):
    """A figure of failures would mean nothing."""


class Connection:
    """A kept connection to a server of this machine."""

    def __init__(self, port: int, *, key: str) -> None:
        self._port = port
        self._socket = self._opened()
        self._used_at = time.monotonic()
        self._headers = {"Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {key}"}

    def _opened(self) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self._port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def request(self, method: str, path: str, *, body: object = None, **headers: str) -> bytes:
        """The bytes of a request; `body` is sent as JSON. Underscores in names of headers stand for hyphens."""
        content = b"" if body is None else json.dumps(body).encode()
        typed = {"Content-Type": "application/json", "Content-Length": str(len(content))} if content else {}
        return self.head(method, path, {**typed, **headers}) + content

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The bytes of a request up to its body."""
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in {**self._headers, **headers}.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def ask(self, request: bytes, *, status: int = 200) -> Answer:
        """Send a request, read its whole answer. Raises `UnexpectedAnswerError` for another status."""
        self.send([request])
        return self._answer(status)

    def get(self, path: str, *, status: int = 200, **headers: str) -> Answer:
        return self.ask(self.request("GET", path, **headers), status=status)

    def put(self, path: str, content: bytes) -> Answer:
        return self.ask(self.head("PUT", path, {"Content-Length": str(len(content))}) + content)

    def _answer(self, status: int) -> Answer:
        head, rest = self.read_head()
        found = int(head[9:12])
        length = 0 if found in _WITHOUT_BODY else _length(head)
        body = bytearray(rest)
        while len(body) < length:
            body += self.receive()
        if found != status:
            message = f"Expected {status}, received {found}: {bytes(body[:500])!r}"
            raise UnexpectedAnswerError(message)
        self._used_at = time.monotonic()
        return Answer(found, head, bytes(body))

    def read_head(self) -> tuple[bytes, bytes]:
        """The head of an answer, and what came of its body with it."""
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self.receive()
        return bytes(received[: end + 2]), bytes(received[end + 4 :])

    def receive(self) -> bytes:
        """What has arrived; waits for something. Raises `ConnectionError` at the end."""
        received = self._socket.recv(BUFFER_BYTES)
        if not received:
            message = "The server closed the connection in the middle of an answer."
            raise ConnectionError(message)
        return received

    # === Large bodies ===

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send the bytes of a request as they come."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
            self._socket = self._opened()
        for piece in pieces:
            self._socket.sendall(piece)

    def upload(self, head: bytes, pieces: Iterable[bytes]) -> Answer:
        """Send a request with a large body, read its answer."""
        self.send(itertools.chain([head], pieces))
        return self._answer(201)

    def drain(self, request: bytes) -> int:
        """Send a request, throw the body of its answer away; how many bytes it had."""
        self.send([request])
        head, rest = self.read_head()
        if int(head[9:12]) != 200:
            message = f"Expected 200, received {head!r}"
            raise UnexpectedAnswerError(message)
        length, received, buffer = _length(head), len(rest), memoryview(bytearray(BUFFER_BYTES))
        while received < length:
            count = self._socket.recv_into(buffer)
            if not count:
                message = f"The server closed the connection after {received:,} of {length:,} bytes."
                raise ConnectionError(message)
            received += count
        self._used_at = time.monotonic()
        return received


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    if found is None:
        message = f"An answer without a Content-Length: {head!r}"
        raise UnexpectedAnswerError(message)
    return int(found[1])
