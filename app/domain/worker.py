"""Workers: processes that train, or that check models and datasets."""

from app.domain.base import Value


class WorkerCapabilities(Value):
    """What a worker says about itself."""

    queues: list[str]
    """What it takes hints from: `prepare`, `cpu`, `gpu`."""
    devices: list[str]
    """What it computes on: `cpu`, or the names of its GPUs."""
    keras: str | None = None
    """Its version of Keras."""
    tensorflow: str | None = None


class WorkerInfo(WorkerCapabilities):
    """A worker that was announced."""

    id: str
    live: bool
    """Whether it was heard of lately."""
