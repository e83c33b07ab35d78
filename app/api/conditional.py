"""Cheap polling: every JSON answer to a GET carries a strong ETag, and `If-None-Match` gets 304 (RFC 9110, 13.1.2).

Downloads set their own ETag (the content's sha256) and pass through untouched, as do streams.
"""

import hashlib
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ConditionalGet:
    """ASGI middleware. An ETag is the digest of the body, so it changes exactly when the answer does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            send = _Tagging(send, Headers(scope=scope).get("if-none-match"))
        await self.app(scope, receive, send)


class _Tagging:
    """Holds the start of a JSON answer back until its body is there."""

    def __init__(self, send: Send, if_none_match: str | None) -> None:
        self._send = send
        self._if_none_match = if_none_match
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_taggable(message):
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            await self._send_tagged(self._start, message)
            self._start = None
        else:
            await self._send(message)

    async def _send_tagged(self, start: Message, body: Message) -> None:
        if not body.get("more_body"):
            headers = MutableHeaders(scope=start)
            headers["ETag"] = tag = f'"{hashlib.sha256(body["body"]).hexdigest()[:32]}"'
            headers["Cache-Control"] = "private, no-cache"
            if matches(self._if_none_match, tag):
                start, body = _not_modified(start), {"type": "http.response.body", "body": b""}
        await self._send(start)
        await self._send(body)


def matches(condition: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` header names `tag`; weak tags match their strong form (RFC 9110, 13.1.2)."""
    if condition is None:
        return False
    return condition.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in condition.split(",")}


def _is_taggable(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    is_json = headers.get("content-type", "").startswith("application/json")
    return start["status"] == HTTPStatus.OK and is_json and "etag" not in headers


def _not_modified(start: Message) -> Message:
    kept = [(name, value) for name, value in start["headers"] if name not in {b"content-length", b"content-type"}]
    return {**start, "status": int(HTTPStatus.NOT_MODIFIED), "headers": kept}
