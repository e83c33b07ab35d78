"""Artifacts: named bytes, addressed by their sha256."""

from pydantic import Field

from app.domain.base import Value


class Blob(Value):
    """Bytes in the artifact store."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the bytes; their name in the store."""
    bytes: int = Field(ge=0)
    """How many."""


class Artifact(Blob):
    """A blob with the name it has in its job, model or dataset, such as `model.keras`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,199}$")
    """As in its job, model or dataset."""


Bundle = list[Artifact]
"""The files of one canonical model or dataset, or the results of one job."""
