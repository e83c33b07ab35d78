"""The frozen-prefix cache, as a job wishes for it and as its record tells of it."""

from typing import Literal

from pydantic import Field

from app.domain.base import Value

CacheWish = Literal["auto", "off", "require"]
"""`auto`: where it is right and pays; `off`: never; `require`: the job fails where it cannot be used."""

PAYS_FROM_MULTIPLY_ADDS = 2e9
"""A phase that would save fewer than so many is not cached: about a tenth of a second on one core."""


class CacheUse(Value):
    """Whether a phase trained on cached features, and what that was worth."""

    used: bool
    """Whether frozen layers ran once instead of once for each epoch."""
    reason: str | None = None
    """Why not, in a few words; `null` if they did."""
    boundary: list[str] = Field(default_factory=list)
    """Names of the layers whose outputs were cached."""
    bytes: int = 0
    """Of the cached features."""
    in_memory: bool = False
    """Whether they were held in memory, or read from a file."""
    found: bool = False
    """Whether an earlier phase or job had made them already."""
    pass_seconds: float = 0.0
    """What one pass of all examples through the frozen layers took when they were made."""
    saved_seconds: float = 0.0
    """An estimate: the passes that were not run."""
    largest_difference: float | None = None
    """The certificate: the largest difference between cached features and those of a training batch, on samples."""
