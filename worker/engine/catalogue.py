"""Models of the catalogue: built by Keras' own functions, with weights from its own cache (`KERAS_HOME`).

    name --keras.applications--> model --allow-list--> canonical folder

What is not in the cache is downloaded by Keras, over https, in the process that registers the model; training
processes open the canonical folder and need no network. A name that cannot be had leaves nothing behind.
"""

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import keras
from keras.src.backend.config import keras_home  # not exported

from app.domain.catalogue import CatalogueName, parse
from app.domain.errors import PlatformError
from app.domain.model import ModelOptions, SourceInfo
from worker.engine import canonical, sources
from worker.engine.intake import uploads
from worker.engine.intake.vet_config import check_model

SILENCE_SECONDS = 60.0
"""How long a server may say nothing; Keras sets no limit of its own."""
RANDOM_SEED = 0
"""Of new weights, so that the same name gives the same model."""


def register(reference: str, destination: Path, *, options: ModelOptions, max_parameters: int) -> SourceInfo:
    """Build a model of the catalogue and write it as a canonical folder, all of it or nothing.

    Call it in a process of its own: random seeds are set, and Keras counts layers anew. Raises `UserError` for a
    wrong name, `SourceError` for a model that is too large, and `PlatformError` with code `download_failed` where
    weights cannot be had.
    """
    name = parse(reference)
    model = build(name, max_parameters=max_parameters)
    known = options.model_copy(update={"rescale": name.application.rescale})
    return sources.admit(model, destination, options=known, model_format="catalogue", origin=str(name))


def build(name: CatalogueName, *, max_parameters: int) -> keras.Model:
    """The model with its weights. Raises what `register` raises."""
    with uploads.without_memory():
        with keras.StatelessScope(initialize_variables=False):
            graph = called(name, weights=None)
        uploads.check_size(graph, max_parameters)
    keras.backend.clear_session()  # Keras numbers layers without a name in the order of their making
    keras.utils.set_random_seed(RANDOM_SEED)
    with _downloads(name):
        model = called(name, weights="imagenet" if name.weights == "imagenet" else None)
    check_model(canonical.config_of(model), strict=True)
    return model


def called(name: CatalogueName, *, weights: Literal["imagenet"] | None) -> keras.Model:
    """What Keras' function for this name returns."""
    application = name.application
    options: dict[str, object] = {"include_top": name.include_top, "weights": weights}
    options["input_shape"] = (name.input_size, name.input_size, 3)
    if name.pooling:
        options["pooling"] = name.pooling
    if len(application.alphas) > 1:
        options["alpha"] = name.alpha
    if application.minimalistic:
        options["minimalistic"] = name.minimalistic
    with warnings.catch_warnings():
        # That weights of another size serve: for a name that says its size that is how it is meant.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square", category=UserWarning)
        model: keras.Model = getattr(keras.applications, application.name)(**options)
    return model


@contextmanager
def _downloads(name: CatalogueName) -> Iterator[None]:
    """Do not wait for a silent server for ever, and say what to do where weights cannot be had."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    except Exception as error:  # Keras raises a bare Exception where it cannot download
        if not _is_failed_download(error):
            raise
        message = (
            f"The weights of '{name}' could not be had: {uploads.reason(error)} They are looked for in "
            f"{keras_home()}/models, and what is not there is downloaded. Let the worker that registers models reach "
            "storage.googleapis.com, or put the file there by hand (KERAS_HOME says where); a file there that was cut "
            "off must be deleted. Then register the model again."
        )
        raise PlatformError(message, code="download_failed") from error
    finally:
        socket.setdefaulttimeout(before)


def _is_failed_download(error: Exception) -> bool:
    """No answer, a wrong one, one that was cut off; h5py raises OSError for half a file, too."""
    told = str(error)
    return isinstance(error, OSError | HTTPException) or told.startswith(("URL fetch failure", "Incomplete or corrupt"))
