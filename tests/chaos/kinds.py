"""The jobs of a chaos run: an MLP on scikit-learn's digits, some seconds of training each.

The kinds differ in what has to survive an interruption: cached features, random numbers, an optimizer that is carried
on, what early stopping remembers.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

ADAM = {"type": "adam", "learning_rate": 0.001}
MOMENTUM = {"type": "sgd", "learning_rate": 0.01, "momentum": 0.9}
DROPOUT = {"layers": [{"type": "dense", "units": 24}, {"type": "dropout", "rate": 0.3}]}
STOPPING = {"patience": 2, "restore_best": True}

KINDS: dict[str, dict[str, Any]] = {
    "dropout": {
        "head": DROPOUT,
        "batch_size": 8,
        "schedule": [{"epochs": 12, "unfreeze": {"last": 1}, "optimizer": ADAM}],
    },
    "carried optimizer": {
        "batch_size": 8,
        "schedule": [
            {"epochs": 5, "unfreeze": {"last": 1}, "optimizer": ADAM},
            {"epochs": 7, "unfreeze": "all", "optimizer": ADAM, "optimizer_state": "carry", "start_from": "best"},
        ],
    },
    "cache on, then all": {
        "batch_size": 8,
        "cache": "require",
        "schedule": [{"epochs": 30, "optimizer": ADAM}],
    },
    "early stopping": {
        "batch_size": 8,
        "schedule": [
            {"epochs": 30, "unfreeze": "all", "optimizer": ADAM, "early_stopping": STOPPING},
            {"epochs": 3, "optimizer": MOMENTUM},
        ],
    },
    "cache off": {"batch_size": 8, "cache": "off", "schedule": [{"epochs": 12, "optimizer": MOMENTUM}]},
}
"""By name, in the order in which a short run takes them."""

BRIEF: dict[str, dict[str, Any]] = {
    "tiny": {"batch_size": 256, "cache": "off", "schedule": [{"epochs": 1, "optimizer": MOMENTUM}]},
    "every part": {
        "head": DROPOUT,
        "batch_size": 8,
        "schedule": [
            {"epochs": 60, "unfreeze": {"last": 1}, "optimizer": ADAM, "early_stopping": {"patience": 60}},
            {"epochs": 1, "optimizer": MOMENTUM, "start_from": "best"},
        ],
    },
}
"""For drills: as short as can be; and one that keeps everything that a checkpoint can hold."""

SEED = 5
"""Of every job: jobs of one kind must all end in the same weights."""

_MAKE = """
import sys, keras, numpy as np
from sklearn.datasets import load_digits
keras.utils.set_random_seed(3)
layers = keras.layers
keras.Sequential([layers.Input((64,)), layers.Dense(64, activation="relu", name="low"),
    layers.Dense(32, activation="relu", name="high"), layers.Dense(4, activation="softmax", name="old")]
).save(sys.argv[1] + "/source.keras")
digits = load_digits()
np.savez(sys.argv[1] + "/digits.npz", x=(digits.data / 16).astype("float32"), y=digits.target)
"""


def body(kind: str, *, model: str, training_file: str, metadata: dict[str, str]) -> dict[str, Any]:
    """The request for a job of this kind."""
    return {
        **{**KINDS, **BRIEF}[kind],
        "model": model,
        "training_file": training_file,
        "seed": SEED,
        "metadata": metadata,
    }


def make_inputs(folder: Path) -> "subprocess.Popen[bytes]":
    """Write `source.keras` and `digits.npz`, by a process of its own that is returned while it runs."""
    return subprocess.Popen([sys.executable, "-c", _MAKE, str(folder)])
