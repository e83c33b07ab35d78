"""Around every request: its id, its line in the log, and an answer even where nobody expected the error."""

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog
from prometheus_client import Histogram
from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import internal_error, too_large
from app.api.exposition import note_request
from app.domain.ids import new_id

log = structlog.get_logger("thaw.api")

SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,128}")


class Observe:
    """ASGI middleware, the outermost one. `times`: where it is noted how long answers took to begin."""

    def __init__(self, app: ASGIApp, times: Histogram) -> None:
        self.app = app
        self._times = times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = _request_id(request)
        # Services log in threads that get a copy of this context: their lines name the request, too.
        with structlog.contextvars.bound_contextvars(request_id=request.state.request_id):
            await self._answer(scope, receive, send, request)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request: Request) -> None:
        started = time.monotonic()
        answer = _Answer(request, send, began=lambda status: self._note(request, status, since=started))
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.info("The client left before it had its answer.", **_facts(request))
        except Exception:
            log.exception("A request failed.", **_facts(request))
            if answer.status is not None:
                raise  # too late for another answer: the server closes the connection
            await internal_error(request)(scope, receive, answer.send)
        finally:
            ms = round((time.monotonic() - started) * 1000, 1)
            log.info("Answered a request.", **_facts(request), status=answer.status, ms=ms)

    def _note(self, request: Request, status: int, *, since: float) -> None:
        """Counted when the answer begins: a stream may last for hours, and says nothing about speed."""
        seconds, route = time.monotonic() - since, _facts(request)["path"]
        note_request(self._times, method=request.method, route=route, status=status, seconds=seconds)


class _Answer:
    """What goes out: every answer gets the request's id, and the body limiter's plain text becomes a problem."""

    def __init__(self, request: Request, send: Send, *, began: Callable[[int], None]) -> None:
        self.request = request
        self.status: int | None = None
        self._send = send
        self._began = began
        self._replaced = False

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and _is_plain(headers):
                self._replaced = True
                problem = too_large(self.request, self.request.scope.get(MAX_BODY_SIZE_SCOPE_KEY, 0))
                await problem(self.request.scope, self.request.receive, self._start_and_body)
                return
            self._note(message, headers)
        await self._send(message)

    async def _start_and_body(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._note(message, MutableHeaders(scope=message))
        await self._send(message)

    def _note(self, message: Message, headers: MutableHeaders) -> None:
        self.status = message["status"]
        self._began(message["status"])
        headers["X-Request-Id"] = self.request.state.request_id
        headers["X-Content-Type-Options"] = "nosniff"


def _is_plain(headers: MutableHeaders) -> bool:
    return headers.get("content-type", "").startswith("text/plain")


def _request_id(request: Request) -> str:
    """The caller's own id if it is a sane one, else a fresh one."""
    given = request.headers.get("x-request-id", "")
    return given if SANE_REQUEST_ID.fullmatch(given) else new_id("req")


def _facts(request: Request) -> dict[str, str]:
    """Never the path itself, which names other people's things: the route's template."""
    route = request.scope.get("route")
    return {
        "request_id": request.state.request_id,
        "method": request.method,
        "path": getattr(route, "path", "-"),
    }
