"""Make the two files that `digits_job.yaml` names, from the digits that scikit-learn carries.

    python examples/digits_files.py        # needs TensorFlow and scikit-learn: pip install 'thaw[worker]'

`digits_0_to_7.keras`: a small network that knows the digits 0 to 7. `digits_8_and_9.npz`: pictures of the two digits
that it has never seen; x is float32 (n, 8, 8, 1) in [0, 1], y is the digit.
"""

from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parent


def main() -> None:
    """Train the source on some digits, and save the others."""
    keras.utils.set_random_seed(42)
    digits = load_digits()
    x, y = (digits.images[..., None] / 16).astype("float32"), digits.target
    known = y < 8

    source = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            *(keras.layers.Dense(50, activation="selu", kernel_initializer="lecun_normal") for _ in range(3)),
            keras.layers.Dense(8, activation="softmax"),
        ],
        name="digits_0_to_7",
    )
    source.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    source.fit(x[known], y[known], epochs=20, verbose=0)

    source.save(FOLDER / "digits_0_to_7.keras")
    np.savez(FOLDER / "digits_8_and_9.npz", x=x[~known], y=y[~known])
    print(f"Wrote digits_0_to_7.keras and digits_8_and_9.npz to {FOLDER}.")


if __name__ == "__main__":
    main()
