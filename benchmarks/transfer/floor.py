"""The least that the head-only job costs: one forward pass of all examples, and training the head on its results.

    python floor.py SCENARIO.json

No validation of weights, no proofs, no checkpoints: what a person would write who thinks of the trick, by hand.
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from plain import BATCH, load


def main() -> None:
    """Features once, then `fit` on them."""
    scenario = json.loads(Path(sys.argv[1]).read_text())
    keras.utils.set_random_seed(scenario["seed"])
    splits = load(scenario["data"])
    base = keras.saving.load_model(scenario["source"], compile=False)
    started = time.perf_counter()
    inputs = keras.Input(base.input_shape[1:])
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    extractor = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(base(x, training=False)))
    features = {
        name: (extractor.predict(x, batch_size=64, verbose=0), y) for name, (x, y) in splits.items() if name != "test"
    }
    head = keras.Sequential([keras.Input(features["train"][0].shape[1:])])
    for units in scenario["hidden"]:
        head.add(keras.layers.Dense(units, activation="relu"))
    head.add(keras.layers.Dropout(0.2))
    head.add(keras.layers.Dense(int(np.max(splits["train"][1])) + 1, activation="softmax"))
    phase = scenario["phases"][0]
    head.compile(keras.optimizers.Adam(phase["learning_rate"]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(
        *features["train"], validation_data=features["validation"], epochs=phase["epochs"], batch_size=BATCH, verbose=0
    )
    print(json.dumps({"phases": [time.perf_counter() - started]}))


if __name__ == "__main__":
    main()
