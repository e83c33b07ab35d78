"""A source model and its few new examples, from Fashion-MNIST through `keras.datasets`. Plain Keras.

    python train_fashion_mnist.py FOLDER SEED…

FOLDER/source.keras         300-100-50-50-50 selu, trained on the eight classes other than sandal and shirt; takes
                            pixels from 0 to 1
FOLDER/target-SEED.npz      sandals and shirts as 8-bit pixels: 200 to train on, drawn by that seed, 1,000 to validate,
                            and the official test images of both classes, 2,000

Keras keeps the data in KERAS_HOME (~/.keras). Prints a line of JSON after each epoch.
The experiment is Geron's, "Hands-On Machine Learning", chapter 11, with another rate.
"""

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

EPOCHS = 10
TRAINING, VALIDATION = 200, 1000
HELD_OUT = 4000
"""Images of the source's own classes on which it is validated."""
SANDAL, SHIRT = 5, 6


def build() -> keras.Model:
    """28 x 28 pixels -> 50 features -> 8 classes."""
    hidden = [
        keras.layers.Dense(units, activation="selu", kernel_initializer="lecun_normal")
        for units in (300, 100, 50, 50, 50)
    ]
    return keras.Sequential(
        [keras.Input((28, 28)), keras.layers.Flatten(), *hidden, keras.layers.Dense(8, activation="softmax")],
        name="fashion_without_sandal_and_shirt",
    )


def load() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The data, as Keras has or downloads them."""
    try:
        train, test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # noqa: BLE001 (Keras raises a plain Exception when a download fails)
        sys.exit(
            f"Fashion-MNIST is not on this machine and could not be downloaded: {error}\n"
            "Try again with network, or put its four .gz files into the folder datasets/fashion-mnist of KERAS_HOME "
            "(~/.keras). `thaw demo` without --data needs no download."
        )
    return train, test


def say(epoch: int, logs: dict[str, Any]) -> None:
    """Tell who started this how far it is."""
    done = {"epoch": epoch + 1, "epochs": EPOCHS, "accuracy": float(logs["val_accuracy"])}
    sys.stdout.write(json.dumps(done) + "\n")
    sys.stdout.flush()


def main(folder: Path, seeds: list[int]) -> None:
    """Train, save, draw."""
    keras.utils.set_random_seed(42)
    (x, y), (x_test, y_test) = load()
    few = np.isin(y, (SANDAL, SHIRT))
    for seed in seeds:
        draw((x[few], y[few]), (x_test, y_test), folder / f"target-{seed}.npz", seed)
    model = build()
    model.compile(keras.optimizers.SGD(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = x[~few].astype("float32") / 255, np.where(y[~few] > SHIRT, y[~few] - 2, y[~few])
    model.fit(
        x[:-HELD_OUT],
        y[:-HELD_OUT],
        validation_data=(x[-HELD_OUT:], y[-HELD_OUT:]),
        epochs=EPOCHS,
        batch_size=32,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=say)],
    )
    model.save(folder / "source.keras")


def draw(train: tuple[Any, Any], test: tuple[Any, Any], path: Path, seed: int) -> None:
    """A few training images at random; the last ones are for validation whatever the seed."""
    (x, y), (x_test, y_test) = train, test
    chosen = np.random.default_rng(seed).permutation(len(y) - VALIDATION)[:TRAINING]
    rows = np.isin(y_test, (SANDAL, SHIRT))
    np.savez(
        path,
        x_train=x[chosen],
        y_train=named(y[chosen]),
        x_validation=x[-VALIDATION:],
        y_validation=named(y[-VALIDATION:]),
        x_test=x_test[rows],
        y_test=named(y_test[rows]),
    )


def named(y: Any) -> Any:  # noqa: ANN401 (numpy arrays)
    """Classes by their names."""
    return np.where(y == SHIRT, "shirt", "sandal")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
