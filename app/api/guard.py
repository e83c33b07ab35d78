"""Who may ask: a request for `/v1` needs an API key, and a service on loopback wants to be called by that name.

Both are middleware rather than dependencies, so that no route can be forgotten and nothing of a stranger's
body is read.
"""

import ipaddress
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import DATABASE_AWAY, on_database_error, response_for
from app.api.problems import ProblemResponse, printable, problem_for
from app.domain.errors import AuthenticationError, ThawError
from app.services import keys

PROTECTED = "/v1"
METRICS = "/metrics"

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description=(
        "The admin key: `thaw up` prints where it is, and `<data folder>/api-key` holds it. Or one that "
        "`thaw keys create` made on the machine of the service."
    ),
)
DocumentedKey = Annotated[object, Security(bearer)]
"""Only tells OpenAPI that a key is needed; the check itself is `RequireKey`."""


class RequireKey:
    """ASGI middleware: `/v1` and `/metrics` need `Authorization: Bearer <key>`, `/metrics` unless it is public."""

    def __init__(self, app: ASGIApp, *, metrics_public: bool = False) -> None:
        self.app = app
        self._metrics_public = metrics_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or go on with `request.state.principal` set."""
        if scope["type"] != "http" or not self._needs_key(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            token = _bearer_token(request)
            request.state.principal = await run_in_threadpool(keys.authenticate, request.app.state.services, token)
        except ThawError as error:
            await response_for(request, error)(scope, receive, send)
        except DATABASE_AWAY as error:
            await on_database_error(request, error)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _needs_key(self, path: str) -> bool:
        return is_protected(path) and not (self._metrics_public and path == METRICS)


class RequireLoopbackName:
    """ASGI middleware for a service that listens on loopback: refuses requests for any other host.

    A web page may point its own name at 127.0.0.1 (DNS rebinding) and then talk to us through its visitor's
    browser; the Host header still carries that name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 to a foreign Host header."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        host = request.headers.get("host", "")
        if is_loopback(_without_port(host)):
            await self.app(scope, receive, send)
        else:
            await _untrusted(request, host)(scope, receive, send)


def is_protected(path: str) -> bool:
    """Whether a request for this path needs a key, as far as no setting says otherwise."""
    return path in {PROTECTED, METRICS} or path.startswith(f"{PROTECTED}/")


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without a port, is this machine and no other."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        message = "This needs an API key. Send it as the header 'Authorization: Bearer <key>'."
        raise AuthenticationError(message)
    return token.strip()


def _untrusted(request: Request, host: str) -> ProblemResponse:
    detail = (
        f"This service listens on loopback and answers to localhost and 127.0.0.1 only; received a request for the "
        f"host {printable(host)!r}. Set THAW_HOST to serve other machines."
    )
    return ProblemResponse(
        problem_for(request, status=400, code="untrusted_host", kind="invalid_request_error", detail=detail)
    )
