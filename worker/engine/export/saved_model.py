"""SavedModel: TensorFlow's own format, in one archive that unpacks to the folder `saved_model`.

saved_model/saved_model.pb
saved_model/variables/…
"""

import shutil
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from app.domain.exports import ExportedInput
from worker.engine.export.inputs import OUTPUT, Array, Batch, inputs_of, predicting, signature

FOLDER = "saved_model"
ENDPOINT = "serve"
SIGNATURE = "serving_default"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the archive tells nothing of when it was made."""


def write_folder(model: keras.Model, inputs: list[ExportedInput], folder: Path) -> None:
    """Write a SavedModel with the endpoint `serve` and the signature `serving_default`."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(ENDPOINT, predicting(model), input_signature=[signature(model, inputs)])
    archive.write_out(str(folder), verbose=False)


class SavedModel:
    """Written with Keras' `ExportArchive`, loaded with TensorFlow's loader."""

    runtime = f"tensorflow {tf.__version__}"

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.inputs = inputs_of(model)

    def write(self, path: Path) -> None:
        """Write the archive."""
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            folder = Path(scratch) / FOLDER
            write_folder(self._model, self.inputs, folder)
            _pack(folder, path)

    def predict(self, path: Path, batches: list[Batch]) -> Array:
        """Unpack and load the archive, and ask it about batches of one: `(n, outputs)`."""
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            shutil.unpack_archive(path, scratch, "zip")
            loaded = tf.saved_model.load(str(Path(scratch) / FOLDER))
            ask = loaded.signatures[SIGNATURE]
            names = [each.name for each in self.inputs]
            asked = ({name: tf.constant(value) for name, value in zip(names, batch, strict=True)} for batch in batches)
            return np.concatenate([ask(**examples)[OUTPUT].numpy() for examples in asked])


def _pack(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            member = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix(), _LONG_AGO)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            with file.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)
