"""What a checkpoint belongs to: one job, on one source and one dataset.

The spec counts as it was sent. Checkpoints from before a job was made to fit the machine are its own: steps and
optimizer are the same. So are those of an earlier version of Thaw, whose specs had fewer fields: what is read of them
now has the default in the new ones, as the job itself has, so their identity is computed again from the spec that they
keep.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.domain.adjusting import as_sent
from app.domain.base import Value
from app.domain.spec import ResolvedSpec


class Identity(Value):
    """What a checkpoint belongs to. Another job, source or dataset has nothing to do with it."""

    spec: str
    """sha256 of the resolved spec as it was sent, with the fields that it had when this was written."""
    source: str
    """The source's digest."""
    dataset: str
    """The dataset's digest."""


def identity_of(spec: ResolvedSpec, *, source: str, dataset: str) -> Identity:
    """The identity of the job with this spec and these digests."""
    sent = as_sent(spec).model_dump_json(exclude={"adjustments"})
    return Identity(spec=hashlib.sha256(sent.encode()).hexdigest(), source=source, dataset=dataset)


def belongs(written: Identity, kept: Mapping[str, Any], *, to: Identity) -> bool:
    """Whether what was written with this identity and this spec is the job's."""
    if written == to:
        return True
    try:
        spec = ResolvedSpec.model_validate(kept)
    except ValidationError:
        return False
    return identity_of(spec, source=written.source, dataset=written.dataset) == to
