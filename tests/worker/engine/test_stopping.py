"""Early stopping, against Keras' own callback."""

from typing import Any

import pytest

from app.domain.phases import EarlyStopping
from worker.engine.stopping import EarlyStop

pytestmark = pytest.mark.tensorflow

LOSSES = [
    [1.0, 0.9, 0.8, 0.7],
    [1.0, 1.1, 1.2, 1.3, 0.1],
    [1.0, 0.99, 0.98, 0.97, 0.96, 0.5],
    [0.5, 0.6, 0.4, 0.6, 0.45, 0.41, 0.3],
    [1.0, float("inf"), 0.9],
]


def by_keras(losses: list[float], options: EarlyStopping) -> tuple[int, float]:
    """How many epochs ran, and the weight that was left; each epoch's weight is its number."""
    import keras
    import numpy as np

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    callback = keras.callbacks.EarlyStopping(
        monitor=options.monitor,
        mode="min",
        patience=options.patience,
        min_delta=options.min_delta,
        restore_best_weights=options.restore_best,
    )
    callback.set_model(model)
    callback.on_train_begin()
    model.stop_training = False
    ran = 0
    for epoch, loss in enumerate(losses):
        model.set_weights([np.full((1, 1), epoch + 1.0)])
        callback.on_epoch_end(epoch, {"val_loss": loss})
        ran = epoch + 1
        if model.stop_training:
            break
    callback.on_train_end()
    return ran, float(model.get_weights()[0][0, 0])


def by_thaw(losses: list[float], options: EarlyStopping) -> tuple[int, float]:
    import keras

    weight: Any = keras.Variable(0.0)
    stop = EarlyStop(options, {"weight": weight})
    ran = 0
    for loss in losses:
        ran += 1
        weight.assign(float(ran))
        stop.note(loss)
        if stop.over:
            break
    stop.restore()
    return ran, float(weight.value)


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("restore_best", [True, False])
def test_stops_and_restores_as_keras_does(
    losses: list[float], patience: int, min_delta: float, restore_best: bool
) -> None:
    options = EarlyStopping(patience=patience, min_delta=min_delta, restore_best=restore_best)
    assert by_thaw(losses, options) == by_keras(losses, options)


def test_restores_what_was_best_when_the_phase_ran_to_its_end() -> None:
    options = EarlyStopping(patience=10)
    assert by_thaw([1.0, 0.2, 0.3], options) == (3, 2.0)


def test_the_best_epoch_is_the_first_with_the_lowest_loss_and_comes_back() -> None:
    import keras

    from worker.engine.stopping import BestEpoch

    variable = keras.Variable([0.0])
    best = BestEpoch({"weight": variable})
    for epoch, loss in enumerate((3.0, 1.0, 1.0, 2.0)):
        variable.assign([float(epoch)])
        best.note(loss)
    best.restore()
    assert float(variable[0]) == 1.0
