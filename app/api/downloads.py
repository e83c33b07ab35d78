"""Downloads: streamed from the store, resumable, with their digest.

The ETag is the content's sha256, so a download that broke off goes on with `Range` and `If-Range` and gets
bytes of the same content or all of it anew. `Repr-Digest` (RFC 9530) covers the whole content, `Content-Digest`
the bytes of this answer; they are the same thing where all of it is sent.
"""

import base64
import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.api.conditional import matches
from app.api.problems import ProblemResponse, problem_for
from app.api.ranges import ByteRange, UnsatisfiableRangeError, requested_range
from app.domain.artifacts import Blob
from app.storage.artifacts import ArtifactStore

MEDIA_TYPE = "application/octet-stream"
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The content.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "ETag": {"description": "The content's sha256, quoted.", "schema": {"type": "string"}},
            "Content-Digest": {"description": "sha-256 of the body (RFC 9530).", "schema": {"type": "string"}},
        },
    },
    206: {
        "description": "The part that `Range` asked for.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "`If-None-Match` names this content."},
}


def download(request: Request, store: ArtifactStore, blob: Blob, *, filename: str) -> Response:
    """The answer to GET or HEAD for a blob."""
    headers = _headers(blob, filename)
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Digest": headers["Repr-Digest"]}, media_type=MEDIA_TYPE)
    try:
        part = _wanted_range(request, headers["ETag"], blob.bytes)
    except UnsatisfiableRangeError:
        return _unsatisfiable(request, blob.bytes)
    return _part(store, blob, part, headers) if part else _whole(store, blob, headers)


def _whole(store: ArtifactStore, blob: Blob, headers: dict[str, str]) -> Response:
    headers = {**headers, "Content-Digest": headers["Repr-Digest"]}
    return StreamingResponse(store.read(blob.sha256), headers=headers, media_type=MEDIA_TYPE)


def _part(store: ArtifactStore, blob: Blob, part: ByteRange, headers: dict[str, str]) -> Response:
    headers = {**headers, "Content-Length": str(part.length), "Content-Range": part.content_range(blob.bytes)}
    chunks = store.read(blob.sha256, start=part.start, stop=part.stop)
    return StreamingResponse(chunks, status_code=206, headers=headers, media_type=MEDIA_TYPE)


def _wanted_range(request: Request, tag: str, total: int) -> ByteRange | None:
    """`If-Range` makes a range count only for the content that the client has a part of already."""
    if_range = request.headers.get("if-range")
    if if_range is not None and if_range.strip() != tag:
        return None
    return requested_range(request.headers.get("range"), total=total)


def _headers(blob: Blob, filename: str) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
    return {
        "ETag": f'"{blob.sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Length": str(blob.bytes),
        "Content-Disposition": content_disposition(filename),
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, no-cache",
    }


def content_disposition(filename: str) -> str:
    """`attachment` with a name that no header and no shell trips over; the exact one follows as UTF-8 (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._\- ]", "_", filename) or "download"
    exact = quote(filename, safe="")
    return f'attachment; filename="{plain}"' + (f"; filename*=UTF-8''{exact}" if plain != filename else "")


def _unsatisfiable(request: Request, total: int) -> ProblemResponse:
    received = request.headers.get("range", "")[:100]
    problem = problem_for(
        request,
        status=416,
        code="range_not_satisfiable",
        kind="invalid_request_error",
        detail=f"The content has {total} bytes; received 'Range: {received}', which begins behind its end.",
    )
    return ProblemResponse(problem, headers={"Content-Range": f"bytes */{total}"})
