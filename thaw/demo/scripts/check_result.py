"""What somebody does with a downloaded model: open it with plain Keras, and predict raw examples.

    python check_result.py MODEL.keras LABELS.json DATA.npz …

Prints a line of JSON for each model: how many examples of the test split it gets right, and which packages of Thaw
were imported for that (there must be none).
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np


def check(model_path: Path, labels_path: Path, data_path: Path) -> None:
    """Open, predict, count."""
    model = keras.saving.load_model(model_path)
    labels = np.array(json.loads(labels_path.read_text(encoding="utf-8"))["labels"])
    with np.load(data_path) as data:
        x, truth = data["x_test"], data["y_test"].astype(str)
    output = model.predict(x, verbose=0)
    index = (output[:, 0] > 0.5).astype(int) if output.shape[1] == 1 else output.argmax(axis=1)
    ours = sorted({name.partition(".")[0] for name in sys.modules} & {"thaw", "app", "worker"})
    found = {"correct": int((labels[index] == truth).sum()), "examples": len(truth), "keras": keras.__version__}
    sys.stdout.write(json.dumps({**found, "ours": ours}) + "\n")


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    for start in range(0, len(paths), 3):
        check(*paths[start : start + 3])
