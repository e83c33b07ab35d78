"""What the service says about itself, on the wire."""

from typing import Literal

from app.api.schemas.base import Wire
from app.domain.progress import ResumeFidelity
from app.domain.worker import SelfTest


class Limits(Wire):
    """What a request may not exceed."""

    max_upload_bytes: int
    """Largest file."""
    max_part_bytes: int
    """Largest part of an upload that arrives in parts."""
    max_body_bytes: int
    """Largest JSON body."""
    max_model_parameters: int
    """Largest source."""
    max_unpacked_bytes: int
    """Largest dataset after unpacking."""
    max_phases: int
    """Phases in a schedule."""
    max_head_layers: int
    """Layers in a head."""
    max_epochs: int
    """Epochs of one phase."""
    max_page_size: int
    """Items on a page of a list."""


class WorkerObject(Wire):
    """A process that trains or prepares."""

    id: str
    """Names the worker."""
    queues: list[str]
    """What it takes on: `cpu` or `gpu` (training), `prepare` (checking models and datasets)."""
    devices: list[str]
    """What it computes on."""
    keras: str | None
    """Its version of Keras."""
    tensorflow: str | None
    """Its version of TensorFlow."""
    live: bool
    """Whether it has been heard of lately."""
    self_test: SelfTest | None
    """What it tried out at its start, each fact with its result; `null` until that is done, and for workers that do
    not train."""
    refuses_training: str | None
    """Why it takes on no trainings although it was started for them: its self-test failed (then `queues` names none of
    theirs), or its disk is full."""
    resume_fidelity: ResumeFidelity | None
    """`exact`: a job that is interrupted here goes on to the very weights of one that is not; `tolerance`: nearly."""
    draining: bool
    """Whether it takes on nothing more and leaves when what it has is done: then `queues` is empty."""


class Capabilities(Wire):
    """What this installation can do."""

    object: Literal["capabilities"] = "capabilities"
    """Always `capabilities`."""
    version: str
    """Thaw's version."""
    kinds: list[str]
    """Kinds of datasets."""
    tasks: list[str]
    """What a dataset may ask for."""
    optimizers: list[str]
    """What a phase may train with."""
    head_layers: list[str]
    """What a head may be built of."""
    limits: Limits
    """How much of everything is accepted."""
    workers: list[WorkerObject]
    """Who would do the work."""


class Health(Wire):
    """The process answers."""

    status: Literal["ok"] = "ok"
    """Always `ok`."""


class PartObject(Wire):
    """One part of the service."""

    name: str
    """`database`, `store`, `broker`, …"""
    ok: bool
    """Whether it answers."""
    detail: str
    """What it answered, or why it did not."""
    needed: bool
    """Whether requests fail without it; the service is ready without the others."""
    out_of_room: bool
    """Whether nothing else is wrong with it than that its disk is nearly full; it goes on by itself with more room."""


class Readiness(Wire):
    """Whether requests would succeed."""

    status: Literal["ready", "unavailable"]
    """`ready` if all parts that are needed answer."""
    parts: list[PartObject]
    """Each part by itself."""
