"""The curves of a job, read back by TensorFlow's own reader of event files."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import EpochFinished, PhaseProgress

pytestmark = pytest.mark.tensorflow


def epoch(index: int, number: int, **metrics: float) -> EpochFinished:
    phase = PhaseProgress(index=index, name=f"phase-{index}", epoch=number, epochs=2)
    return EpochFinished(phase=phase, step=10 * number, metrics=metrics)


@pytest.fixture
def events(tmp_path: Path) -> list[Any]:
    import tensorflow as tf

    from worker.engine import tensorboard

    history = [
        epoch(1, 1, loss=0.5, val_loss=0.75, accuracy=0.25, val_accuracy=0.5, learning_rate=0.125, seconds=2.0),
        epoch(1, 2, loss=0.25, val_loss=0.5, accuracy=0.5, val_accuracy=0.5, learning_rate=0.125, seconds=1.0),
        epoch(2, 1, loss=0.125, val_loss=0.5, accuracy=1.0, val_accuracy=0.5, learning_rate=0.5, seconds=4.0),
    ]
    path = tmp_path / tensorboard.FILE
    tensorboard.write(path, history, ended_at=1000.0)
    assert [each.name for each in tmp_path.iterdir()] == ["events.out.tfevents.thaw"]
    return list(tf.compat.v1.train.summary_iterator(str(path)))


def test_each_epoch_is_one_step_with_its_curves_side_by_side(events: list[Any]) -> None:
    assert events[0].file_version == "brain.Event:2"
    assert [event.step for event in events[1:]] == [1, 2, 3]
    first = {value.tag: value.simple_value for value in events[1].summary.value}
    assert first == {
        "loss/train": 0.5,
        "loss/validation": 0.75,
        "accuracy/train": 0.25,
        "accuracy/validation": 0.5,
        "learning_rate": 0.125,
        "seconds": 2.0,
        "phase": 1.0,
    }
    assert [value.simple_value for event in events[1:] for value in event.summary.value if value.tag == "phase"] == [
        1.0,
        1.0,
        2.0,
    ]


def test_times_are_counted_back_from_the_end(events: list[Any]) -> None:
    assert [event.wall_time for event in events] == [993.0, 995.0, 996.0, 1000.0]
