"""What kind of file this is, told by its content, and what to do with those that are no Keras models."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NoReturn

import h5py

from worker.engine.intake.refusals import refuse

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
SAVE_AGAIN = "Open the model where it was made and save it with model.save('model.keras')."

_SAVED_MODEL = (
    "This is a TensorFlow SavedModel: a graph that runs, without the layers that could be cut and frozen. " + SAVE_AGAIN
)
_TORCH = "This is a PyTorch file. Thaw fine-tunes Keras models; rebuild the model in Keras and save it as .keras."
_PICKLE = "This is a Python pickle, which runs code when it is opened, so Thaw never opens one. " + SAVE_AGAIN
_WEIGHTS_ALONE = "This file holds weights without the model's architecture. " + SAVE_AGAIN

# Offset, bytes, what it is and the way out.
_KNOWN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x80\x02", _PICKLE),
    (0, b"\x80\x03", _PICKLE),
    (0, b"\x80\x04", _PICKLE),
    (0, b"\x80\x05", _PICKLE),
    (0, b"\x08\x01\x12", _SAVED_MODEL),
    (4, b"TFL3", "This is a LiteRT (TFLite) model, made to run and not to train. " + SAVE_AGAIN),
    (0, b"GGUF", "This is a GGUF language model. Thaw fine-tunes Keras models."),
    (0, b"\x93NUMPY", "This is a NumPy array, not a model. " + SAVE_AGAIN),
    (0, b"\x1f\x8b", "This is a gzip file, not a model. Unpack it and upload the .keras or .h5 file in it."),
    (257, b"ustar", "This is a tar archive, not a model. Unpack it and upload the .keras or .h5 file in it."),
    (8, b'{"', "This is a safetensors file: weights without the model's architecture. " + SAVE_AGAIN),
    (0, b"\x89PNG", "This is a picture, not a model. Upload pictures as a dataset: a zip of class folders."),
    (0, b"\xff\xd8\xff", "This is a picture, not a model. Upload pictures as a dataset: a zip of class folders."),
    (0, b"%PDF", "This is a PDF, not a model."),
    (0, b"version https://git-lfs", "This is a pointer of Git LFS, not the file. Fetch it with `git lfs pull`."),
    (0, b"{", "This is JSON: perhaps a model's architecture, without its weights. " + SAVE_AGAIN),
    (0, b"<", "This is a web page or XML, not a model. Perhaps a download went wrong; download the file again."),
)


def container_of(path: Path) -> Literal["zip", "hdf5"]:
    """Which kind of container the file is. Refuses, by name, all that cannot be a Keras model."""
    if path.is_dir():
        is_saved_model = any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
        refuse("unsupported_format", _SAVED_MODEL if is_saved_model else f"This is a folder. {SAVE_AGAIN}")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        refuse("not_a_model", f"The file is empty. Perhaps the upload broke off. {SAVE_AGAIN}")
    if head.startswith(HDF5):
        return "hdf5"
    if not head.startswith(ZIP):
        _refuse_other(head)
    return "zip"


def check_archive(names: Collection[str]) -> None:
    """Refuse zip files that are not `.keras` archives, by what they look like."""
    if any(name.rpartition("/")[2] in ("saved_model.pb", "saved_model.pbtxt") for name in names):
        refuse("unsupported_format", _SAVED_MODEL)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        refuse("unsupported_format", _TORCH)
    if "config.json" in names:
        return
    if names and all(name.endswith(".npy") for name in names):
        refuse("not_a_model", f"This is an npz file of arrays, not a model. Upload it as a dataset, or: {SAVE_AGAIN}")
    inside = [name for name in names if name.endswith((".keras", ".h5", ".hdf5"))]
    advice = f"Unpack it and upload '{inside[0][:100]}' itself." if inside else SAVE_AGAIN
    refuse("not_a_model", f"This is a zip archive without config.json, so no .keras file. {advice}")


def refuse_without_model(file: h5py.File) -> NoReturn:
    """Say what an HDF5 file without a model's configuration is."""
    weights = "layer_names" in file.attrs or any(
        name in file for name in ("layers", "_layer_checkpoint_dependencies", "vars", "model_weights")
    )
    other = f"This HDF5 file is no Keras model: it has no `model_config`. {SAVE_AGAIN}"
    refuse("unsupported_format" if weights else "not_a_model", _WEIGHTS_ALONE if weights else other)


def _refuse_other(head: bytes) -> NoReturn:
    for offset, signature, sentence in _KNOWN:
        if head[offset : offset + len(signature)] == signature:
            refuse("unsupported_format", sentence)
    refuse(
        "not_a_model",
        f"This is no model that Thaw knows: expected a .keras archive or an HDF5 file, received a file that begins "
        f"with {head[:8].hex(' ')}. {SAVE_AGAIN}",
    )
