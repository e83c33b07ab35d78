"""The result as a model that takes raw examples: built, written, read back and compared.

    raw example ─ preprocessing layers ─ backbone ─ head ─▶ prediction

One flat Functional model of plain Keras layers, so that `keras.saving.load_model` opens it anywhere. Of a table the
raw example is a row: a dictionary with one input for each column.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from app.domain.errors import PlatformError
from app.domain.naming import Names
from worker.engine import durable, graph
from worker.engine.data import Encoding, Preprocess, Preprocesses, Raw, Split, front
from worker.engine.surgery import leaf_layers

CHECKED_EXAMPLES = 16
"""So many test examples go through the written file."""
TOLERANCE = 1e-3
"""Largest difference, relative to the largest prediction if that is above 1. Convolutions differ by about 1e-5 when
only the batch size changes; a wrong preprocessing shows in the first digit."""

Array = np.ndarray[Any, Any]


def exported(model: keras.Model, preprocess: Preprocess | Preprocesses) -> keras.Model:
    """A model on the same layers that takes raw examples `(batch, *preprocess.input_shape)`.

    Where there are several inputs they keep the names that the source gave them.
    """
    names = _names(model)
    parts = preprocess.parts if isinstance(preprocess, Preprocesses) else (("examples", preprocess),)
    raws, tensors = zip(*(_raw_input(name, part, names) for name, part in parts), strict=True)
    return keras.Model(graph.one_or_all(raws), _laid_on(graph.one_or_all(tensors), model), name=model.name)


def _names(model: keras.Model) -> Names:
    """The source may be a result itself, which has such layers already."""
    return Names(path.partition("/")[0] for path, _ in leaf_layers(model))


def _raw_input(name: str, preprocess: Preprocess, names: Names) -> tuple[Any, Any]:
    """An input for raw examples, and what its preprocessing layers make of it."""
    tensor = raw = keras.Input(preprocess.input_shape, dtype=preprocess.input_dtype, name=names.fresh(name))
    for layer in preprocess.layers():
        tensor = _predicting(_renamed(layer, names.fresh(layer.name)))(tensor)
    return raw, tensor


def taking_rows(model: keras.Model, encoding: Encoding) -> tuple[keras.Model, dict[str, str]]:
    """A model on the same layers that takes a table's rows; and by column, what the input for it is called."""
    inputs, vector = front.raw_inputs(encoding, fresh=_names(model).fresh)
    by_name = {tensor.name: tensor for tensor in inputs.values()}
    names = {column: tensor.name for column, tensor in inputs.items()}
    return keras.Model(by_name, _laid_on(vector, model), name=model.name), names


def write(
    model: keras.Model, path: Path, *, test: Split, expected: Array, names: Mapping[str, str] | None = None
) -> float:
    """Write an exported model as a `.keras` file and read it back; the largest difference of its predictions.

    `expected`: what the trained model predicts for the test split, `(n, outputs)`; `names`: of a model on rows, what
    the input for each column is called. Raises `PlatformError` with code `export_check_failed`, and then there is no
    file; or `storage_full`.
    """
    durable.require_room(path.parent, 2 * sum(np.asarray(weight).nbytes for weight in model.weights))
    with durable.replacing(path) as temporary:
        model.save(temporary)
        read_back = keras.saving.load_model(temporary, compile=False)
        return _check(lambda raw: read_back(_taken(named(raw, names or {}), read_back)), test, expected)


def named(raw: Raw, names: Mapping[str, str]) -> Raw:
    """A raw example as the exported model takes it: columns by the names of their inputs."""
    return {names.get(column, column): values for column, values in raw.items()} if isinstance(raw, dict) else raw


def _check(model: Callable[[Raw], Any], test: Split, expected: Array) -> float:
    count = min(CHECKED_EXAMPLES, len(test))
    predicted = np.concatenate([np.asarray(model(test.raw(index))) for index in range(count)])
    difference = float(np.max(np.abs(predicted - expected[:count])))
    if not difference <= TOLERANCE * max(1.0, float(np.max(np.abs(expected[:count])))):
        message = (
            f"The exported model's predictions differ by up to {difference:.3g} from the trained model's on {count} "
            f"test examples; expected at most {TOLERANCE:g}. It is not published. Please report this with the job's "
            "specification."
        )
        raise PlatformError(message, code="export_check_failed")
    return difference


def _taken(raw: Raw, model: keras.Model) -> Any:  # noqa: ANN401 (what Keras calls a model with)
    """Of a raw example what the model takes: a cut may have left some inputs out."""
    if not isinstance(raw, dict):
        return raw
    names = [graph.maker_name(tensor) for tensor in model.inputs]
    alone = len(names) == 1 and not isinstance(model.input, dict)
    return raw[names[0]] if alone else {name: raw[name] for name in names}


def _laid_on(tensor: Any, model: keras.Model) -> Any:  # noqa: ANN401 (symbolic tensors of Keras)
    """The model's output on another input, its layers used as they are: no model inside a model."""
    return model._run_through_graph(tensor, operation_fn=_predicting)  # noqa: SLF001 (no public way)


def _predicting(operation: Any) -> Any:  # noqa: ANN401 (a layer or an operation of Keras)
    """The operation as the graph is to call it: for prediction, unless the whole model is called for training.

    Layers that work on pictures are called with `training=True` where nothing else is said, and Keras 3.15.1 passes
    that on to the layers behind them: `model(x)` would run BatchNormalization in training mode and change it.
    """
    parameter = inspect.signature(operation.call).parameters.get("training")
    trains_by_default = parameter is not None and parameter.default is True
    return functools.partial(operation, training=False) if trains_by_default else operation


def _renamed(layer: keras.Layer, name: str) -> keras.Layer:
    return layer if layer.name == name else type(layer).from_config({**layer.get_config(), "name": name})
