"""The digits job as a plain Keras script, the way a good engineer writes it by hand.

    python plain_digits.py SOURCE.keras DIGITS.npz OUT.keras

The same work as the textbook job: load the source, copy its layers but the last, train a new output for 4 epochs with
the rest frozen and 16 with everything unfrozen, validate each epoch, evaluate once, save. Prints one JSON line with
the moments (seconds of the monotonic clock, which all processes of a machine share) of its first step and of its end.
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np


class FirstStep(keras.callbacks.Callback):
    """Notes when the first training step was done."""

    at: float | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 (Keras' signature)
        """Keep the first moment."""
        self.at = self.at or time.monotonic()


def split(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of 70 % to train on, 15 % to validate, 15 % to test, at random."""
    order = rng.permutation(len(labels))
    validation, test = int(0.15 * len(order)), int(0.30 * len(order))
    return order[test:], order[:validation], order[validation:test]


def build(source: keras.Model) -> tuple[keras.Model, keras.Model]:
    """The source without its last layer, copied, and a new sigmoid on top."""
    copy = keras.models.clone_model(source)
    copy.set_weights(source.get_weights())
    backbone = keras.Model(copy.inputs, copy.layers[-2].output)
    output = keras.layers.Dense(1, activation="sigmoid", name="output")(backbone.output)
    return backbone, keras.Model(backbone.inputs, output)


def main() -> None:
    """Train, evaluate, save, and say when."""
    source_path, data_path, out_path = map(Path, sys.argv[1:4])
    keras.utils.set_random_seed(42)
    arrays = np.load(data_path)
    x = arrays["x"].astype("float32")
    y = (arrays["y"] == arrays["y"].max()).astype("float32")
    train, validation, test = split(y, np.random.default_rng(42))

    backbone, model = build(keras.saving.load_model(source_path))
    first_step = FirstStep()
    for trainable, epochs, rate in ((False, 4, 0.01), (True, 16, 0.0001)):
        backbone.trainable = trainable
        model.compile(keras.optimizers.SGD(rate), "binary_crossentropy", metrics=["accuracy"])
        model.fit(
            x[train],
            y[train],
            validation_data=(x[validation], y[validation]),
            epochs=epochs,
            batch_size=32,
            callbacks=[first_step],
            verbose=0,
        )
    accuracy = model.evaluate(x[test], y[test], verbose=0)[1]
    model.save(out_path)
    print(json.dumps({"first_step": first_step.at, "done": time.monotonic(), "accuracy": accuracy}))


if __name__ == "__main__":
    main()
