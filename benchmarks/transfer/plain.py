"""Transfer learning as a plain Keras script, the way a good engineer writes it by hand.

    python plain.py SCENARIO.json

The Keras guide's recipe: a frozen base below a new head, `fit` with validation, then more of the base unfrozen,
compiled anew with a lower rate. Examples are decoded, resized and in memory before the clock starts; `tf.data`
shuffles, batches and prefetches. BatchNormalization stays still when the base is unfrozen, as the guide wants it (by
its own `trainable`: `training=False` does not do it in Keras 3.15). Prints one line of JSON.
"""

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH = 32


def load(path: str) -> dict[str, tuple[Any, Any]]:
    """Splits of decoded pictures `(n, 160, 160, 3)` uint8 and their labels."""
    arrays = np.load(path)
    return {name: (arrays[f"x_{name}"], arrays[f"y_{name}"]) for name in ("train", "validation", "test")}


def batches(x: np.ndarray, y: np.ndarray, *, shuffle: bool) -> tf.data.Dataset:
    """Batches that are ready before they are needed."""
    data = tf.data.Dataset.from_tensor_slices((x, y))
    if shuffle:
        data = data.shuffle(len(x), reshuffle_each_iteration=True)
    return data.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def build(source: str, scenario: dict[str, Any], classes: int) -> tuple[keras.Model, keras.Model]:
    """The base, and the model on top of it; raw pictures in."""
    base = keras.saving.load_model(source, compile=False)
    base.trainable = False
    inputs = keras.Input(base.input_shape[1:])
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    for units in scenario["hidden"]:
        x = keras.layers.Dense(units, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    return base, keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def unfreeze(base: keras.Model, fraction: float) -> None:
    """Let the last part of the layers with weights train, BatchNormalization left out."""
    base.trainable = True
    weighted = [layer for layer in base.layers if layer.weights]
    kept = len(weighted) - math.ceil(fraction * len(weighted) - 1e-9)
    for number, layer in enumerate(weighted):
        layer.trainable = number >= kept and not isinstance(layer, keras.layers.BatchNormalization)


def main() -> None:
    """Train the phases, evaluate once, save."""
    scenario = json.loads(Path(sys.argv[1]).read_text())
    keras.utils.set_random_seed(scenario["seed"])
    splits = load(scenario["data"])
    train, validation = batches(*splits["train"], shuffle=True), batches(*splits["validation"], shuffle=False)
    base, model = build(scenario["source"], scenario, classes=int(splits["train"][1].max()) + 1)
    seconds = []
    for phase in scenario["phases"]:
        started = time.perf_counter()
        if phase["fraction"]:
            unfreeze(base, phase["fraction"])
        model.compile(
            keras.optimizers.Adam(phase["learning_rate"]), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        model.fit(train, validation_data=validation, epochs=phase["epochs"], verbose=0)
        seconds.append(time.perf_counter() - started)
    accuracy = model.evaluate(batches(*splits["test"], shuffle=False), verbose=0)[1]
    model.save(scenario["output"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"phases": seconds, "accuracy": accuracy, "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main()
