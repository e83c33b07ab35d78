"""A source model and its few new examples, from the digits that scikit-learn carries. Plain Keras.

    python train_digits.py FOLDER SEED…

FOLDER/source.keras         a small convolutional network, trained on the digits 0 to 7; takes raw pixels, 0 to 16
FOLDER/target-SEED.npz      the digits 8 and 9: 20 to train on, 84 to validate, 250 to test, drawn by that seed

Prints a line of JSON after each epoch.
"""

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

EPOCHS = 20
TRAINING, VALIDATION, TEST = 20, 84, 250
HELD_OUT = 150
"""Digits of the source's own classes on which it is validated."""


def build() -> keras.Model:
    """8 x 8 pixels -> 64 features -> 8 classes."""
    conv = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Conv2D(32, **conv),
            keras.layers.Conv2D(32, **conv),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, **conv),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(8, activation="softmax"),
        ],
        name="digits_0_to_7",
    )


def say(epoch: int, logs: dict[str, Any]) -> None:
    """Tell who started this how far it is."""
    done = {"epoch": epoch + 1, "epochs": EPOCHS, "accuracy": float(logs["val_accuracy"])}
    sys.stdout.write(json.dumps(done) + "\n")
    sys.stdout.flush()


def main(folder: Path, seeds: list[int]) -> None:
    """Train, save, draw."""
    keras.utils.set_random_seed(42)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target
    few = y >= 8
    for seed in seeds:
        draw(x[few], y[few], folder / f"target-{seed}.npz", seed)
    model = build()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    order = np.random.default_rng(42).permutation(np.flatnonzero(~few))
    held_out, train = order[:HELD_OUT], order[HELD_OUT:]
    model.fit(
        x[train],
        y[train],
        validation_data=(x[held_out], y[held_out]),
        epochs=EPOCHS,
        batch_size=32,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=say)],
    )
    model.save(folder / "source.keras")


def draw(x: Any, y: Any, path: Path, seed: int) -> None:  # noqa: ANN401 (numpy arrays)
    """Divide the few examples at random."""
    order = np.random.default_rng(seed).permutation(len(y))
    parts = {
        "train": order[:TRAINING],
        "validation": order[TRAINING : TRAINING + VALIDATION],
        "test": order[-TEST:],
    }
    arrays = {f"{letter}_{name}": data[rows] for name, rows in parts.items() for letter, data in (("x", x), ("y", y))}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
