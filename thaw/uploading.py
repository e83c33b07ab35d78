"""Uploads: streamed from the file, counted, hashed on the way; large ones in parts (`thaw.parts`).

A small file goes in one request, which is repeated from the start if the connection breaks.
"""

import uuid
from typing import IO, cast

from thaw import parts
from thaw.connection import LONG_ANSWER_SECONDS, Connection, JsonObject, json_object
from thaw.errors import UnexpectedAnswerError
from thaw.reading import CountedReader, OnProgress, Source, length, name_of, opened

LARGE_BYTES = 64 * 1024**2
"""Larger files go in parts."""


def upload(
    connection: Connection,
    source: Source,
    *,
    purpose: str,
    filename: str | None = None,
    on_progress: OnProgress | None = None,
    idempotency_key: str | None = None,
    reuse: bool = False,
) -> JsonObject:
    """Send a file; the service's description of it.

    `reuse`: of a large file that the service has under this name already, from an upload in parts, nothing is sent.
    """
    name = filename or name_of(source)
    with opened(source) as file:
        size = length(file)
        part_bytes = parts.part_bytes(connection, size) if size is not None and size > LARGE_BYTES else None
        if part_bytes is None:
            counted = CountedReader(file, on_progress)
            return _send(connection, counted, name, purpose=purpose, key=idempotency_key or uuid.uuid4().hex)
        plan = parts.plan(file, filename=name, purpose=purpose, part_bytes=part_bytes)
        sending = parts.Sending(connection, file, plan, on_progress)
        return sending.run(idempotency_key=idempotency_key, reuse=reuse)


def _send(connection: Connection, counted: CountedReader, name: str, *, purpose: str, key: str) -> JsonObject:
    def once() -> JsonObject:
        with connection.open(
            "POST",
            "/v1/files",
            data={"purpose": purpose},
            files={"file": (name, cast("IO[bytes]", counted))},
            headers={"Idempotency-Key": key},
            read_timeout=LONG_ANSWER_SECONDS,
        ) as response:
            response.read()
            return json_object(response)

    stored = connection.insist(once) if counted.seekable() else once()
    _compare(stored, counted, name)
    return stored


def _compare(stored: JsonObject, sent: CountedReader, name: str) -> None:
    theirs = stored.get("sha256")
    if theirs is not None and theirs != sent.sha256():
        message = f"{name} was changed on the way: sent sha256 {sent.sha256()}, stored {theirs}. Upload it again."
        raise UnexpectedAnswerError(message)
