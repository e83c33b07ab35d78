"""Ancestry: the jobs that a job's weights come from, back to the first source, and the jobs that it does again.

first source -> job -> checkpoint or result -> job -> … -> this job
"""

import hashlib
from typing import Literal

from pydantic import Field

from app.domain.base import Value
from app.domain.spec import ResolvedSpec

Way = Literal["fork", "checkpoint", "result"]


class Ancestor(Value):
    """A job with whose weights the one after it began."""

    job: str = Field(examples=["ftjob-01jd8k2v7e0000000000000000"])
    """Its id."""
    way: Way
    """`fork`: by a fork of it, at a checkpoint; `checkpoint`, `result`: that was the `model` that was asked for."""
    checkpoint: str | None = None
    """Whose weights; `null`: those of its result."""
    phase: str | None = None
    """The phase in which the checkpoint was kept."""
    weights_sha256: str | None = None
    """Of the checkpoint's file."""
    model_digest: str | None = None
    """Of the model that its weights became: architecture and every weight. `null`: it is not known any more."""
    dataset_digest: str | None = None
    """Of what it was trained on."""
    spec_sha256: str
    """Of what it was asked to do."""


class FirstSource(Value):
    """The model at the beginning, which no job here has made."""

    model: str
    """Its id; it may have been deleted since."""
    name: str | None = None
    """What people call it."""
    origin: str | None = Field(default=None, examples=["keras:MobileNetV2"])
    """Where it came from: a name of the catalogue or of a hub, or the id of the file that was uploaded."""
    digest: str | None = None
    """Architecture and every weight; `null`: it was deleted, and no job kept its digest."""


class Ancestry(Value):
    """Where a job comes from."""

    job: str
    """The job itself."""
    retry_of: list[str]
    """The jobs that it does again, the last one first; empty: it is no retry."""
    ancestors: list[Ancestor]
    """The jobs that its weights come from, the last one first; empty: it began with the first source itself."""
    first_source: FirstSource
    """Where all of it began."""


def digest_of(spec: ResolvedSpec) -> str:
    """sha256 of what a job was asked to do, seed included."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
