"""Parts whose connection breaks anywhere: nothing half is visible, and at most one part is sent again."""

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.services import files, uploads
from app.services.completion import complete
from app.storage.paging import PageQuery
from tests.app.api.conftest import KEY
from tests.app.api.test_uploads import UPLOADS, send, sha256, stored

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

BOUNDARY = "b"
SEED = 17
PROJECT = "default"
ABOUT = {"filename": "a.zip", "purpose": "fine-tune", "mime_type": "application/zip"}


def form_of(content: bytes, **fields: object) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    data = f'{head}"data"; filename="part"\r\n\r\n'.encode() + content
    return b"".join(parts) + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def post_and_leave(app: FastAPI, path: str, body: bytes, *, after: int, politely: bool) -> None:
    """What the server sees when a connection breaks: so many bytes of the body, and then that nobody is there.

    `politely`: or, from a proxy that was cut off itself, the end of the body.
    """
    chunks = [body[at : min(at + 16_384, after)] for at in range(0, after, 16_384)]
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
    headers = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {KEY}",
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "content-length": str(len(body)),
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    end = {"type": "http.request", "body": b"", "more_body": False}
    last = end if politely else {"type": "http.disconnect"}

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else last

    async def send_nowhere(_: Any) -> None:
        """Nobody listens any more."""

    asyncio.run(app(scope, receive, send_nowhere))  # type: ignore[arg-type]  # ASGI as dictionaries


def test_a_hundred_uploads_cut_at_random_leave_nothing_half_and_go_on_with_one_part_again(
    client: TestClient, thaw: "Thaw", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # connections break here, not machines
    chance = random.Random(SEED)  # noqa: S311 (not for secrets)
    services, kept = thaw.services, 0
    for turn in range(100):
        content = chance.randbytes(chance.randint(1, 60_000))
        size = chance.randint(1 + len(content) // 3, 1 + len(content))
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        upload = uploads.create(services, PROJECT, size=len(content), sha256=sha256(content), **ABOUT).id
        cut = chance.randrange(len(pieces))
        for number, piece in enumerate(pieces[:cut], start=1):
            assert send(client, upload, piece, number=number).status_code == 201
        body = form_of(pieces[cut], number=cut + 1)
        after = chance.randrange(len(body))
        post_and_leave(thaw.app, f"{UPLOADS}/{upload}/parts", body, after=after, politely=turn % 2 == 0)
        if turn % 3 == 0:
            wrong = send(client, upload, pieces[cut], number=cut + 1, sha256=sha256(b"other"))
            assert wrong.status_code == 422

        arrived = uploads.parts_page(services, PROJECT, upload, PageQuery(order="asc")).items
        assert [part.content.sha256 for part in arrived] == [sha256(piece) for piece in pieces[:cut]]
        assert list((services.settings.artifacts_dir() / "tmp").iterdir()) == []
        # What is missing: the part that was cut, and those that were not sent yet.
        ids = [part.id for part in arrived]
        for number, piece in enumerate(pieces[len(arrived) :], start=len(arrived) + 1):
            ids.append(send(client, upload, piece, number=number).json()["id"])
        done = complete(services, PROJECT, upload, part_ids=ids)
        assert done.file is not None
        assert done.file.blob.sha256 == sha256(content)
        kept += len(pieces) + 1
    assert len(files.list_page(services, PROJECT, PageQuery(limit=100)).items) == 100
    assert stored(thaw) == kept, "no blob of what was cut off or refused"
