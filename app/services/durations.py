"""How long a phase would take: measured in an earlier job, or reckoned from the passes timed at registration.

    once          fill the cache: the still layers, each example of training and validation
    each epoch    forward through what is left, for both; gradients through what they reach, for training

The share of a layer in a pass is its share of the work (`app.domain.estimates`).
"""

from collections.abc import Collection
from dataclasses import dataclass

from app.domain import estimates
from app.domain.layout import Layout
from app.domain.plan import TimePlan

USUAL_TRAINING_PASS = 3.5
"""A pass with gradients, in forward passes, where only those were timed: what a MobileNet takes."""
TRACE_SECONDS = 0.008
TRACE_SECONDS_WITH_GRADIENTS = 0.01
"""Preparing a step, for each layer: the training step and the evaluation step (measured)."""
START_SECONDS = 1.0
"""Freezing, optimizer, fingerprints of all weights."""


@dataclass(frozen=True)
class Measured:
    """What a phase took in an earlier job, on the same source and data and with the same layers frozen."""

    epoch_seconds: float
    """The usual epoch."""
    start_seconds: float
    """What came before the first one, and what the first one took longer."""
    device: str


def of_phase(
    layout: Layout, epochs: int, *, reached: Collection[int], cached: Collection[int], measured: Measured | None
) -> TimePlan | None:
    """The estimate, or `None` where nothing was measured. `reached`: rows that gradients pass; `cached`: still ones."""
    if measured is not None:
        return TimePlan(
            seconds=measured.start_seconds + epochs * measured.epoch_seconds,
            start_seconds=measured.start_seconds,
            epoch_seconds=measured.epoch_seconds,
            origin="jobs",
            device=measured.device,
        )
    return _reckoned(layout, epochs, reached=reached, cached=cached)


def _reckoned(layout: Layout, epochs: int, *, reached: Collection[int], cached: Collection[int]) -> TimePlan | None:
    probe, given = layout.source.probe, layout.sizes
    if probe is None or given is None:
        return None
    as_probed = estimates.sizes(layout.source.layers, layout.source, probe.input_shape)
    assert as_probed is not None  # a source with a probe has sizes for its shape
    table = {row.index: row for row in layout.source.layers}
    second = probe.forward_seconds / sum(estimates.work(row, as_probed, table) for row in table.values())
    backward = (probe.training_seconds or USUAL_TRAINING_PASS * probe.forward_seconds) / probe.forward_seconds - 1
    rows = {row.index: row for row in layout.rows}
    seconds = {index: second * estimates.work(row, given, {**table, **rows}) for index, row in rows.items()}
    once = sum(seconds[index] for index in cached)
    every = sum(seconds.values()) - once
    gradients = backward * sum(seconds[index] for index in reached)
    train = layout.data.splits["train"].examples
    traced = TRACE_SECONDS * (len(rows) - len(cached)) + TRACE_SECONDS_WITH_GRADIENTS * len(reached)
    start = START_SECONDS + traced + once * layout.cached_examples
    epoch = every * layout.cached_examples + gradients * train
    return TimePlan(
        seconds=start + epochs * epoch,
        start_seconds=start,
        epoch_seconds=epoch,
        origin="probe",
        device=probe.device,
    )
