"""Creating things: 201 with `Location`, and at most once for each `Idempotency-Key`.

Only answers of requests that created something are kept. One that was refused (422) or that failed (5xx)
leaves nothing behind, and the same key may be tried again.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.domain.errors import FieldProblem, InvalidRequestError, NotFoundError
from app.services import idempotency
from app.services.context import Services
from app.services.idempotency import StoredAnswer

MEDIA_TYPE = "application/json"
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes trying again safe: the same key and body get the first answer again, nothing is made twice.",
        examples=["2f9a4c1e-7d0b-4a53-9a0e-0a8f2f6f6c1d"],
    ),
]


@contextlib.contextmanager
def reference(pointer: str) -> Iterator[None]:
    """What a body names but does not exist is a wrong field of that body, not a missing page."""
    try:
        yield
    except NotFoundError as error:
        problem = FieldProblem(pointer=pointer, code="unknown_id", message=error.message)
        raise InvalidRequestError(error.message, param=pointer, problems=[problem]) from error


class Creation:
    """One request that creates something."""

    def __init__(self, request: Request, idempotency_key: str | None) -> None:
        self.services: Services = idempotency.joined(request.app.state.services)
        self.project: str = request.state.principal.project
        self.key_id: str = request.state.principal.key_id
        self._where = f"{request.method} {request.url.path}"
        self._key = idempotency_key

    def once(self, body: BaseModel | Mapping[str, object], make: Callable[[], tuple[str, BaseModel]]) -> Response:
        """Make something, unless this key has made it already; `make` returns its path and its wire form.

        Two bodies are the same if they set the same fields to the same values, in any order and spelling.
        """
        if self._key is None:
            return _response(_created(*make()))
        print_of_body = fingerprint(self._where, body)
        stored = idempotency.begin(self.services, self.project, key=self._key, fingerprint=print_of_body)
        if stored is not None:
            return _response(stored, replayed=True)
        return _response(self._remember(self._key, make))

    def _remember(self, key: str, make: Callable[[], tuple[str, BaseModel]]) -> StoredAnswer:
        try:
            return idempotency.once(self.services, self.project, key=key, make=lambda: _created(*make()))
        except BaseException:
            idempotency.forget(self.services, self.project, key=key)
            raise


def _created(location: str, thing: BaseModel) -> StoredAnswer:
    return StoredAnswer(status=201, headers={"Location": location}, body=thing.model_dump_json(by_alias=True))


def _response(answer: StoredAnswer, *, replayed: bool = False) -> Response:
    headers = {**answer.headers, **({"Idempotency-Replayed": "true"} if replayed else {})}
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=MEDIA_TYPE)


def fingerprint(where: str, body: BaseModel | Mapping[str, object]) -> str:
    """sha256 over method, path and body, the order of the body's keys left aside.

    Fields that were left out are no part of it: the same body has the same one in a version that knows more fields.
    """
    plain = body.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(body, BaseModel) else body
    canonical = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(f"{where}\n{canonical}".encode()).hexdigest()
