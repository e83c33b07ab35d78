"""Large files go in parts, each of which is tried again by itself; whoever begins anew goes on where it stopped.

read the file                   sha256 of the whole and of each part
GET  /v1/uploads?sha256=…       was it begun before, and which parts are there?
POST /v1/uploads                if not
POST /v1/uploads/…/parts        what is missing
POST /v1/uploads/…/complete     the service puts them together, and compares the sha256 of the whole

What the client knows is nowhere but in the file and in the service, so that it does not matter which process or machine
goes on. Parts carry their number: one whose answer was lost is sent again, and is there once.
"""

import contextlib
import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, cast

from thaw.connection import LONG_ANSWER_SECONDS, Connection, JsonObject, json_object
from thaw.errors import ApiError, ConflictError, ThawClientError, UnexpectedAnswerError
from thaw.reading import CountedReader, OnProgress
from thaw.records import Capabilities, Upload, UploadPart, read
from thaw.resources.paging import entries, every

PATH = "/v1/uploads"
PART_BYTES = 16 * 1024**2
"""One of them is in memory at a time, and lost at most when the connection breaks."""
MAX_PARTS = 10_000
"""The service takes no more."""
_HOPELESS = frozenset({"invalid_request", "corrupt_artifact", "missing_artifact"})
"""What the service says of parts that make another file, or are damaged or gone."""

_ENDED = frozenset({"cancelled", "expired"})
"""Without a file."""


@dataclass(frozen=True)
class Plan:
    """A file, and the parts in which it goes."""

    filename: str
    purpose: str
    size: int
    sha256: str
    part_bytes: int
    digests: Sequence[str]
    """sha256 of each part."""


def part_bytes(connection: Connection, size: int) -> int | None:
    """How large the parts of a file of `size` bytes are; `None`: this service takes files as a whole only."""
    limits = read(Capabilities, connection.get("/v1/capabilities")).limits or {}
    most = limits.get("max_part_bytes")
    return min(max(PART_BYTES, -(-size // MAX_PARTS)), most) if isinstance(most, int) else None


def plan(file: IO[bytes], *, filename: str, purpose: str, part_bytes: int) -> Plan:
    """Read the file once, from its start."""
    whole, digests, size = hashlib.sha256(), [], 0
    file.seek(0)
    while content := _read(file, part_bytes):
        whole.update(content)
        digests.append(hashlib.sha256(content).hexdigest())
        size += len(content)
    return Plan(filename, purpose, size, whole.hexdigest(), part_bytes, digests)


class Sending:
    """One file on its way."""

    def __init__(
        self, connection: Connection, file: IO[bytes], plan: Plan, on_progress: OnProgress | None = None
    ) -> None:
        self._connection = connection
        self._file = file
        self._plan = plan
        self._on_progress = on_progress
        self._done = 0

    def run(self, *, idempotency_key: str | None = None, reuse: bool = False) -> JsonObject:
        """Send what is missing; the service's description of the file. `reuse`: a file that it has will do.

        Raises `ThawClientError` if the file changes meanwhile.
        """
        begun = None if idempotency_key else self._begun_before(reuse=reuse)
        upload, there = begun or self._begin(idempotency_key or uuid.uuid4().hex)
        if upload.status != "completed":
            upload = self._go_on(upload, there)
        return self._file_of(upload)

    def _go_on(self, upload: Upload, there: Mapping[int, str]) -> Upload:
        try:
            ids = [there.get(number) or self._send(upload, number) for number in self._numbers(there)]
            return self._complete(upload, ids)
        except ConflictError:
            now = read(Upload, self._connection.get(f"{PATH}/{upload.id}"))
            if now.status != "completed":
                raise
            return now  # by somebody else who sent the same file at the same time

    # === Which upload ===

    def _begun_before(self, *, reuse: bool) -> tuple[Upload, Mapping[int, str]] | None:
        """The newest upload of these bytes under this name that can be gone on with, and the ids of its parts."""
        wanted = {"sha256": self._plan.sha256, "filename": self._plan.filename}
        for upload in entries(Upload, self._connection.get(PATH, parameters=wanted)):
            if upload.bytes != self._plan.size or upload.purpose != self._plan.purpose:
                continue
            if upload.status == "completed" and reuse and upload.file is not None:
                return upload, {}
            there = self._arrived(upload) if upload.status == "pending" else None
            if there is not None:
                return upload, there
        return None

    def _begin(self, key: str) -> tuple[Upload, Mapping[int, str]]:
        plan = self._plan
        body = {"bytes": plan.size, "filename": plan.filename, "purpose": plan.purpose, "sha256": plan.sha256}
        begun = read(Upload, self._connection.post(PATH, body=body, idempotency_key=key))
        # The answer may be an old one: the key may have been used by an earlier process.
        upload = read(Upload, self._connection.get(f"{PATH}/{begun.id}"))
        if upload.status in _ENDED:
            message = f"The upload '{upload.id}' of this Idempotency-Key is {upload.status}. Take a new key."
            raise ThawClientError(message)
        there = self._arrived(upload)
        if there is None:
            message = f"The upload '{upload.id}' of this Idempotency-Key has parts of another size. Take a new key."
            raise ThawClientError(message)
        return upload, there

    def _arrived(self, upload: Upload) -> Mapping[int, str] | None:
        """The ids of the parts that are there, by number; `None`: they are others than those of the plan."""
        digests = dict(enumerate(self._plan.digests, start=1))
        there = list(every(UploadPart, self._connection, f"{PATH}/{upload.id}/parts", {"order": "asc"}))
        fits = all(digests.get(part.number) == part.sha256 for part in there)
        return {part.number: part.id for part in there} if fits else None

    # === Parts ===

    def _numbers(self, there: Mapping[int, str]) -> range:
        """Of all parts; those that are there count as sent."""
        self._done = sum(self._size_of(number) for number in there)
        if self._on_progress is not None and there:
            self._on_progress(self._done, self._plan.size)
        return range(1, len(self._plan.digests) + 1)

    def _size_of(self, number: int) -> int:
        return min(self._plan.part_bytes, self._plan.size - (number - 1) * self._plan.part_bytes)

    def _send(self, upload: Upload, number: int) -> str:
        """Send a part until it is there; its id."""
        content = self._content(number)

        def once() -> JsonObject:
            counted = CountedReader(io.BytesIO(content), self._tell)
            with self._connection.open(
                "POST",
                f"{PATH}/{upload.id}/parts",
                data={"number": str(number), "sha256": self._plan.digests[number - 1]},
                files={"data": (self._plan.filename, cast("IO[bytes]", counted))},
                read_timeout=LONG_ANSWER_SECONDS,
            ) as response:
                response.read()
                return json_object(response)

        part = read(UploadPart, self._connection.insist(once))
        self._done += len(content)
        return part.id

    def _content(self, number: int) -> bytes:
        self._file.seek((number - 1) * self._plan.part_bytes)
        content = _read(self._file, self._size_of(number))
        if hashlib.sha256(content).hexdigest() != self._plan.digests[number - 1]:
            message = f"{self._plan.filename} was changed while it was uploaded. Upload it again."
            raise ThawClientError(message)
        return content

    def _tell(self, done: int, _total: int | None) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done + done, self._plan.size)

    # === The end ===

    def _complete(self, upload: Upload, part_ids: Sequence[str]) -> Upload:
        """An upload whose parts cannot become the file is cancelled, so that the next try does not go on with it."""
        body = {"part_ids": list(part_ids), "sha256": self._plan.sha256}

        def once() -> JsonObject:
            path = f"{PATH}/{upload.id}/complete"
            with self._connection.open("POST", path, json=body, read_timeout=LONG_ANSWER_SECONDS) as response:
                response.read()
                return json_object(response)

        try:
            return read(Upload, self._connection.insist(once))
        except ApiError as error:
            if error.code in _HOPELESS:
                with contextlib.suppress(ThawClientError):  # why it was cancelled matters more
                    self._connection.post(f"{PATH}/{upload.id}/cancel", body={})
            raise

    def _file_of(self, upload: Upload) -> JsonObject:
        if upload.file is None or upload.file.sha256 != self._plan.sha256:
            message = f"The upload '{upload.id}' should have become this file, and did not. Upload it again."
            raise UnexpectedAnswerError(message)
        return dict(upload.file.raw)


def _read(file: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end: some file objects give less than was asked for."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
