"""TensorBoard: a job's curves in the one file that `tensorboard --logdir` opens.

    loss/train  loss/validation  accuracy/train  accuracy/validation  …  learning_rate  seconds  phase

The step is the number of the epoch, from 1 over all phases. The file has TensorFlow's format of event files: a
TFRecord of `Event` messages, written here because TensorFlow's own writer puts the machine's name into the file's.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import tensorflow as tf

from app.domain.progress import EpochFinished
from worker.engine import durable

FILE = "events.out.tfevents.thaw"
"""TensorBoard looks for `tfevents` in names."""
_VERSION = "brain.Event:2"
_ALONE = frozenset({"learning_rate", "seconds"})
"""Metrics that neither the training nor the validation split has of its own."""
_VALIDATION = "val_"


def write(path: Path, history: Sequence[EpochFinished], *, ended_at: float) -> None:
    """Write one event for each epoch.

    `ended_at`: Unix seconds, when the last epoch had ended; the times of the others are counted back from there by
    the epochs' seconds.
    """
    with durable.replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for event in _events(history, ended_at):
            writer.write(event.SerializeToString())


def _events(history: Sequence[EpochFinished], ended_at: float) -> Iterator[tf.compat.v1.Event]:
    seconds = [epoch.metrics.get("seconds", 0.0) for epoch in history]
    started_at = ended_at - sum(seconds)
    yield tf.compat.v1.Event(wall_time=started_at, file_version=_VERSION)
    for number, (epoch, spent) in enumerate(zip(history, accumulate(seconds), strict=True), start=1):
        summary = tf.compat.v1.Summary(
            value=[
                tf.compat.v1.Summary.Value(tag=tag, simple_value=value)
                for tag, value in _scalars(epoch.metrics, epoch.phase.index).items()
            ]
        )
        yield tf.compat.v1.Event(wall_time=started_at + spent, step=number, summary=summary)


def _scalars(metrics: Mapping[str, float], phase: int) -> dict[str, float]:
    return {**{_tag(name): value for name, value in metrics.items()}, "phase": float(phase)}


def _tag(name: str) -> str:
    if name in _ALONE:
        return name
    bare = name.removeprefix(_VALIDATION)
    return f"{bare}/{'train' if bare == name else 'validation'}"
