"""From a model file that passed the checks to a model in memory: the one place where Keras sees foreign data."""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state  # no public way to drop variables that wait for their values

from app.domain.errors import SourceError
from worker.engine import graph
from worker.engine.canonical import settle
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet import Vetted

MAX_OUTPUT_NUMBERS = 2**28
"""Numbers that one layer may give for one example: 1 GiB in float32."""
EXAMPLE_TEXTS = ("The quick brown fox jumps over the lazy dog.", "a")
FREE_SIDE = 128
"""What stands in for an axis of free size, where a size is needed."""


def open_model(vetted: Vetted, scratch: Path, *, max_parameters: int) -> keras.Model:
    """Build the model and load its weights. Raises `SourceError`."""
    model = _sized(vetted.config, max_parameters)
    _load_weights(model, vetted, scratch)
    for path, layer in graph.leaves(model):
        settle(layer)
        _check_finite(path, layer)
    return model


def example_batch(model: keras.Model, size: int = 2) -> Any:  # noqa: ANN401 (an array, or a list of them)
    """Random inputs that the model accepts, a list if there are several: floats in [0, 1), or 0 and 1, or texts."""
    return graph.one_or_all([_example_inputs(tensor, size) for tensor in model.inputs])


def _example_inputs(tensor: graph.Tensor, size: int) -> np.ndarray[Any, Any]:
    shape = [size, *(FREE_SIDE if side is None else side for side in tensor.shape[1:])]
    generator = np.random.default_rng(0)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "string":
        return np.resize(np.array(EXAMPLE_TEXTS, object), shape)
    floats = keras.backend.is_float_dtype(dtype)
    return (generator.random(shape) if floats else generator.integers(0, 2, shape)).astype(dtype)


# === Size ===


def _sized(config: Mapping[str, Any], max_parameters: int) -> keras.Model:
    """The model, whose variables got memory only after they were counted."""
    with without_memory():
        with keras.StatelessScope(initialize_variables=False):
            model = _built(config)
        check_size(model, max_parameters)
        with keras.StatelessScope():
            pass  # leaving it gives the variables that wait for them their values
    return model


@contextmanager
def without_memory() -> Iterator[None]:
    """Forget variables that were made in here in a scope that initializes none, and got no values since."""
    try:
        yield
    finally:
        # Those of a refused model must not wait for the next one that leaves such a scope.
        global_state.set_global_attribute("uninitialized_variables", [])


def _built(config: Mapping[str, Any]) -> keras.Model:
    try:
        # Keras takes the config apart while it reads it.
        return keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    except SourceError:
        raise
    except Exception as error:  # Keras raises anything on a config that does not fit together
        message = (
            f"Keras {keras.__version__} cannot build this model from its configuration: {reason(error)} "
            "Save it again with a current Keras."
        )
        raise SourceError(message, code="unsupported_model") from error


def check_size(model: keras.Model, max_parameters: int) -> None:
    """Refuse models that Thaw cannot train, and those larger than this service takes; before they have memory."""
    _check_ends(model)
    parameters = sum(math.prod(variable.shape) for variable in model.variables)
    if parameters > max_parameters:
        refuse("model_too_large", f"The model has {parameters:,} parameters; this service takes {max_parameters:,}.")
    for step in graph.steps(model):
        for tensor in step.outputs:
            numbers = math.prod(1 if side is None else side for side in tensor.shape)
            if numbers > MAX_OUTPUT_NUMBERS:
                refuse(
                    "model_too_large",
                    f"Layer '{step.path}' gives {numbers:,} numbers for each example; at most {MAX_OUTPUT_NUMBERS:,}.",
                )


def _check_ends(model: keras.Model) -> None:
    if len(model.outputs) != 1:
        names = ", ".join(f"'{graph.maker_name(tensor)}' {list(tensor.shape)}" for tensor in model.outputs)
        refuse(
            "unsupported_model",
            f"The model has {len(model.outputs)} outputs: {names}; Thaw fine-tunes models with one. "
            "Save a model with a single output: keras.Model(inputs, output).",
        )
    for tensor in model.inputs:
        shape, name = list(tensor.shape), graph.maker_name(tensor)
        least = 1 if tensor.dtype == "string" else 2
        if len(shape) < least or shape[0] is not None:
            message = f"The model's input '{name}' has shape {shape}; expected [None, …], one example per row."
            refuse("unsupported_model", message)


# === Weights ===


def _load_weights(model: keras.Model, vetted: Vetted, scratch: Path) -> None:
    # Keras tells the two layouts apart by the file's name.
    named = scratch / ("model.weights.h5" if vetted.format == "keras" else "model.h5")
    named.symlink_to(vetted.weights.resolve())
    try:
        model.load_weights(named)
    except Exception as error:  # h5py and Keras raise anything on weights that do not fit
        message = (
            f"The weights in the file do not fit its architecture: {reason(error)} "
            "Save the model again with model.save('model.keras')."
        )
        raise SourceError(message, code="corrupt_file") from error


def _check_finite(path: str, layer: keras.Layer) -> None:
    for variable in layer.weights:
        if keras.backend.is_float_dtype(variable.dtype) and not bool(keras.ops.all(keras.ops.isfinite(variable))):
            refuse(
                "unsupported_model",
                f"Weight '{variable.name}' of layer '{path}' holds NaN or infinity, so every output would. "
                "Register a checkpoint from before the training went wrong.",
            )


def reason(error: Exception) -> str:
    """The sentence of a Keras error that says what happened: the innermost one."""
    innermost = re.split(r"Exception encountered:|Error encountered during deserialization:", str(error))[-1]
    lines = [line.strip() for line in re.sub(r"\x1b\[\d+m", "", innermost).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception encountered when")]
    # "Example error message for object <Dense …>:" and then, on a line of its own, the message.
    text = (" ".join(told[: 1 + told[0].endswith(":")]) if told else type(error).__name__)[:300]
    return text if text.endswith(".") else f"{text}."
