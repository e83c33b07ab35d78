"""A source model and its few new examples, from the digits that scikit-learn carries. Plain Keras.

    python train_digits.py FOLDER SEED…

FOLDER/source.keras         a small convolutional network, trained on the digits 0 to 7; takes raw pixels, 0 to 16
FOLDER/target-SEED.npz      the digits 8 and 9, divided by that seed: 20 to train on, 84 to validate, 250 to test,
                            half of each digit (within one)

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
TRAINING, VALIDATION = 10, 42
"""Of each new digit; what is left is for the test."""
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
            keras.layers.Conv2D(64, **conv),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(8, activation="softmax"),
        ],
        name="digits_0_to_7",
    )


def shifted(x: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401 (numpy arrays)
    """Each picture moved by up to one pixel in each direction: a better source from the same digits."""
    moves = rng.integers(-1, 2, size=(len(x), 2))
    return np.stack([np.roll(picture, tuple(move), axis=(0, 1)) for picture, move in zip(x, moves, strict=True)])


def train(x: Any, y: Any) -> keras.Model:  # noqa: ANN401 (numpy arrays)
    """A source, with a line of JSON for each epoch."""
    keras.utils.set_random_seed(42)
    rng = np.random.default_rng(42)
    model = build()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    order = rng.permutation(len(x))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    for epoch in range(1, EPOCHS + 1):
        model.fit(shifted(x[rest], rng), y[rest], batch_size=32, verbose=0)
        accuracy = model.evaluate(x[held_out], y[held_out], verbose=0)[1]
        sys.stdout.write(json.dumps({"epoch": epoch, "epochs": EPOCHS, "accuracy": accuracy}) + "\n")
        sys.stdout.flush()
    return model


def draw(x: Any, y: Any, path: Path, seed: int) -> None:  # noqa: ANN401 (numpy arrays)
    """Divide the new digits at random, as many of each."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for digit in np.unique(y):
        order = rng.permutation(np.flatnonzero(y == digit)).tolist()
        parts["train"] += order[:TRAINING]
        parts["validation"] += order[TRAINING : TRAINING + VALIDATION]
        parts["test"] += order[TRAINING + VALIDATION :]
    arrays = {f"{letter}_{name}": data[rows] for name, rows in parts.items() for letter, data in (("x", x), ("y", y))}
    np.savez(path, **arrays)


def main(folder: Path, seeds: list[int]) -> None:
    """Train, save, draw."""
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target
    few = y >= 8
    for seed in seeds:
        draw(x[few], y[few], folder / f"target-{seed}.npz", seed)
    train(x[~few], y[~few]).save(folder / "source.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
