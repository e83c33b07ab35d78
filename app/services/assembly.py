"""Assembly: the parts of an upload become one blob, read, checked, hashed and written a mebibyte at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.domain.artifacts import Blob
from app.domain.errors import FieldProblem, InvalidRequestError, PlatformError
from app.domain.upload import UploadPart
from app.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class Checksums:
    """What the whole must have, in hexadecimal digits; `None`: nobody has said."""

    md5: str | None = None
    sha256: str | None = None
    declared_sha256: str | None = None
    """When the upload was begun."""


def assemble(store: ArtifactStore, parts: Sequence[UploadPart], checksums: Checksums) -> Blob:
    """Put parts together in this order.

    Raises `InvalidRequestError` if the whole has another checksum, `StorageFullError`, `ServiceUnavailableError`, and
    `PlatformError` if a part is gone or damaged; nothing is kept then.
    """
    md5 = hashlib.md5(usedforsecurity=False) if checksums.md5 else None
    with store.writer(max_bytes=sum(part.content.bytes for part in parts)) as writer:
        for part in parts:
            for chunk in _content(store, part):
                writer.write(chunk)
                if md5:
                    md5.update(chunk)
        sha256 = writer.written().sha256
        _compare("/md5", "md5", expected=checksums.md5, found=md5.hexdigest() if md5 else None)
        _compare("/sha256", "sha256", expected=checksums.sha256, found=sha256)
        _compare("/part_ids", "sha256", expected=checksums.declared_sha256, found=sha256)
        return writer.commit()


def _content(store: ArtifactStore, part: UploadPart) -> Iterator[bytes]:
    """The part's bytes, without the seal behind them."""
    digest = hashlib.sha256()
    for chunk in store.read(part.sealed.sha256, stop=part.content.bytes):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != part.content.sha256:
        message = (
            f"Part '{part.id}' was damaged in the store: its bytes had the sha256 {part.content.sha256}, and have "
            f"{digest.hexdigest()}. Send them again as another part, and name that one."
        )
        raise PlatformError(message, code="corrupt_artifact")


def _compare(pointer: str, kind: str, *, expected: str | None, found: str | None) -> None:
    if expected is None or found == expected.lower():
        return
    message = (
        f"The parts, in this order, make a file with the {kind} {found}; expected {expected.lower()}. Nothing was "
        "changed: look at their order, and whether the file was changed while it was sent."
    )
    problem = FieldProblem(pointer=pointer, code="wrong_checksum", message=message)
    raise InvalidRequestError(message, param=pointer, problems=[problem])
