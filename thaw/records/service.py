"""What the service says about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thaw.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Fact(Record):
    """One thing that training relies on, or that is known of Keras, tried out on a worker."""

    name: str
    kind: str = ""
    """`freezing`, `files`, `determinism`: training relies on it; `keras`: describes Keras as it is."""
    holds: bool = False
    measured: str = ""


@dataclass(frozen=True, kw_only=True)
class SelfTest(Record):
    """What a worker found out about the Keras, the TensorFlow and the device that it has."""

    facts: Sequence[Fact] = ()
    device: str = ""
    versions: Mapping[str, str] | None = None
    seconds: float = 0.0
    ran_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Worker(Record):
    """A worker that announced itself."""

    id: str
    queues: Sequence[str] = ()
    devices: Sequence[object] = ()
    keras: str | None = None
    tensorflow: str | None = None
    live: bool = False
    self_test: SelfTest | None = None
    refuses_training: str | None = None
    """Why it takes on no trainings although it was started for them."""
    resume_fidelity: str | None = None
    """`exact` or `tolerance`."""
    draining: bool = False
    """Whether it takes on nothing more and leaves when what it has is done."""


@dataclass(frozen=True, kw_only=True)
class Capabilities(Record):
    """What the service can do."""

    version: str
    kinds: Sequence[str] = ()
    tasks: Sequence[str] = ()
    optimizers: Sequence[str] = ()
    head_layers: Sequence[str] = ()
    limits: Mapping[str, object] | None = None
    workers: Sequence[Worker] = ()


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    """One part that the service needs: its database, store, broker."""

    name: str
    ok: bool
    detail: str = ""
    needed: bool = True
    """Whether requests fail without it."""
    out_of_room: bool = False
    """Whether nothing else is wrong with it than that its disk is nearly full."""


@dataclass(frozen=True, kw_only=True)
class Health(Record):
    """Whether requests would succeed."""

    status: str
    """`ready` or `unavailable`."""
    parts: Sequence[Part] = ()
