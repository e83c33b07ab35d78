"""Probes: how fast a source computes, measured at its registration."""

from app.domain.base import Value


class Probe(Value):
    """Passes through the whole source, timed in the process that registered it."""

    device: str
    """Where: `cpu`, or the name of a GPU."""
    input_shape: list[int]
    """Of one example, without the batch axis."""
    batch_size: int
    """Examples in each pass."""
    forward_seconds: float
    """For each example, a pass through the source."""
    training_seconds: float | None = None
    """For each example, such a pass and the gradients of all weights; `None`: it would have taken too long."""
    output_numbers: list[int] | None = None
    """Numbers that each row of the layer table gives for such an example; `None`: the table says it itself."""
