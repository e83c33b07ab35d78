"""Data and source of the benchmark: trashnet decoded at 160 px, MobileNet 0.25 at that size, both forms of each.

python prepare.py trashnet.zip FOLDER
"""

import io
import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from app.domain.dataset import DatasetOptions
from app.domain.model import ModelOptions
from worker.engine import data, sources

SIZE = (160, 160)
LIMIT = 2**36


def decode(archive: Path) -> dict[str, np.ndarray]:
    """Pictures of all classes, divided 70 : 15 : 15 by a fixed draw."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
        x = np.stack(
            [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB").resize(SIZE)) for name in names]
        )
    folders = [name.split("/")[-2] for name in names]
    y = np.array([sorted(set(folders)).index(folder) for folder in folders])
    order = np.random.default_rng(0).permutation(len(x))
    ends = int(0.7 * len(x)), int(0.85 * len(x))
    parts = dict(zip(("train", "validation", "test"), np.split(order, ends), strict=True))
    return {f"{letter}_{name}": values[rows] for name, rows in parts.items() for letter, values in (("x", x), ("y", y))}


def main() -> None:
    """Write everything, print where it is."""
    archive, folder = Path(sys.argv[1]), Path(sys.argv[2])
    np.savez(folder / "trashnet.npz", **decode(archive))
    # The weights for 224 px, whose file both sides share whatever the size: convolutions have no size of their own.
    known = keras.applications.MobileNet(alpha=0.25, include_top=False, input_shape=(224, 224, 3), weights="imagenet")
    model = keras.applications.MobileNet(alpha=0.25, include_top=False, input_shape=(*SIZE, 3), weights=None)
    model.set_weights(known.get_weights())
    model.save(folder / "mobilenet.keras")
    options = ModelOptions(rescale="minus_one_to_one")
    sources.register(folder / "mobilenet.keras", folder / "source", options=options, max_parameters=LIMIT)
    data.validate(folder / "trashnet.npz", folder / "dataset", options=DatasetOptions(), max_unpacked_bytes=LIMIT)
    print(
        json.dumps(
            {
                "source": str(folder / "mobilenet.keras"),
                "data": str(folder / "trashnet.npz"),
                "canonical_source": str(folder / "source"),
                "canonical_data": str(folder / "dataset"),
            }
        )
    )


if __name__ == "__main__":
    main()
