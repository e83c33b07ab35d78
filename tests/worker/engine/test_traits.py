"""What layer tables say besides shapes."""

from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    import keras
    from keras import layers

    from worker.engine.surgery import layer_table

    sequence = keras.Input((6, 4), name="in")
    x = layers.TimeDistributed(layers.BatchNormalization(), name="wrapped_norm")(sequence)
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    x = layers.LSTM(3, return_sequences=True, dropout=0.1, name="lstm_dropout")(x)
    x = layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    x = layers.Dropout(0.0, name="dropout_of_nothing")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Normalization(mean=0.0, variance=1.0, name="normalization")(x)
    frozen = layers.Dense(2, name="dense", trainable=False)
    model = keras.Model(sequence, layers.BatchNormalization(name="norm")(frozen(x)) + 1.0)
    return {row.path: row for row in layer_table(model)}


def test_only_what_draws_at_random_is_stochastic(rows: dict[str, Any]) -> None:
    assert {path for path, row in rows.items() if row.stochastic} == {"lstm_dropout", "dropout"}


def test_wrapped_batch_norm_is_batch_norm(rows: dict[str, Any]) -> None:
    assert {path for path, row in rows.items() if row.batch_norm} == {"wrapped_norm", "norm"}


def test_what_training_may_change_is_counted_even_of_frozen_layers(rows: dict[str, Any]) -> None:
    expected = {"wrapped_norm": 8, "norm": 4, "dense": 8, "normalization": 0, "dropout": 0, "in": 0}
    assert {path: rows[path].trainable_parameters for path in expected} == expected
    assert rows["norm"].parameters == 8
