"""What the service says about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thaw.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Worker(Record):
    """A worker that announced itself."""

    id: str
    queues: Sequence[str] = ()
    devices: Sequence[object] = ()
    keras: str | None = None
    tensorflow: str | None = None
    live: bool = False


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


@dataclass(frozen=True, kw_only=True)
class Health(Record):
    """Whether requests would succeed."""

    status: str
    """`ready` or `unavailable`."""
    parts: Sequence[Part] = ()
