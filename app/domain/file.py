"""Files: bytes that somebody uploaded."""

from app.domain.artifacts import Blob
from app.domain.base import Value

PURPOSES = ("fine-tune", "assistants", "batch", "vision", "user_data", "evals")
"""What OpenAI's clients may send; Thaw keeps it and makes no difference."""


class File(Value):
    """An upload. Its bytes are in the artifact store."""

    id: str
    created_at: float
    """Unix seconds."""
    filename: str
    purpose: str
    blob: Blob
