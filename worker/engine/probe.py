"""How fast a model computes, in a second or two: what plans tell times from.

The passes are traced, as training's are: one by one, Keras' layers take three times as long (measured on a MobileNet).
Nothing in the model changes: they run in inference mode, and gradients are computed and thrown away.
"""

import math
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.domain.model import LayerRow
from app.domain.probe import Probe
from worker.engine import convolutions, graph, runtime

MAX_PARAMETERS = 100_000_000
MAX_TRAINED_PARAMETERS = 25_000_000
"""Gradients take as much memory as weights, and registration may have little."""
MAX_TRACED_ROWS = 500
MAX_TRAINED_ROWS = 250
"""Tracing takes 4 ms for each layer, with gradients 9 ms (measured)."""
MAX_BATCH = 32
BATCH_NUMBERS = 2**25
"""Outputs of all layers for one batch: 128 MiB, two or three times that with gradients."""
PASS_SECONDS = 0.3
"""No pass is repeated after that, and no longer one is begun where this says that it would take four times as long."""
REPEATS = 3
FREE_SIDE = 128

Tensor = Any


def measure(model: keras.Model, rows: Sequence[LayerRow]) -> Probe | None:
    """Time passes of a built model. `rows`: its layer table.

    `None` if it is too large to be timed in passing, has several inputs, or cannot be timed, which the process's
    output then tells: it can be trained all the same.
    """
    if model.count_params() > MAX_PARAMETERS or len(rows) > MAX_TRACED_ROWS or len(model.inputs) > 1:
        return None
    try:
        return _measured(model, rows)
    except Exception:  # noqa: BLE001 (whatever an odd model raises: a plan without times is no reason to refuse it)
        traceback.print_exc()
        return None


def _measured(model: keras.Model, rows: Sequence[LayerRow]) -> Probe | None:
    shape = [FREE_SIDE if side is None else side for side in model.inputs[0].shape[1:]]
    numbers = output_numbers(model, shape)
    batch = min(MAX_BATCH, BATCH_NUMBERS // max(sum(numbers), 1))
    if batch == 0:
        return None
    x = _examples(model, [batch, *shape])
    forward = _seconds(lambda: model(x, training=False))
    training = None
    small = len(rows) <= MAX_TRAINED_ROWS and model.count_params() <= MAX_TRAINED_PARAMETERS
    if small and forward < PASS_SECONDS:
        if runtime.device_name() == runtime.CPU:
            convolutions.make_sound(model)
        training = _seconds(lambda: _gradients(model, x))
    is_open = any(side is None for side in model.inputs[0].shape[1:])
    return Probe(
        device=runtime.device_name(),
        input_shape=shape,
        batch_size=batch,
        forward_seconds=forward / batch,
        training_seconds=None if training is None else max(training, forward) / batch,
        output_numbers=numbers if is_open else None,
    )


def output_numbers(model: keras.Model, shape: Sequence[int]) -> list[int]:
    """Numbers that each row of the layer table gives for an example of this shape, told by Keras without computing."""
    found: dict[int, int] = {}

    def run(inner: keras.Model, tensors: Tensor) -> Tensor:
        return graph.graph_of(inner)._run_through_graph(tensors, operation_fn=spec_of)  # noqa: SLF001 (no public way)

    def spec_of(operation: graph.Operation) -> Callable[..., Tensor]:
        def call(*arguments: Tensor, **options: Any) -> Tensor:  # noqa: ANN401 (Keras)
            if graph.is_model(operation):
                return run(operation, arguments[0])
            options.pop("training", None)
            made = operation.compute_output_spec(*arguments, **options)
            found[id(operation)] = sum(math.prod(tensor.shape[1:]) for tensor in keras.tree.flatten(made))
            return made

        return call

    raw = keras.KerasTensor((1, *shape), dtype=model.inputs[0].dtype)
    run(model, raw)
    size = math.prod(shape)
    return [found.get(id(step.operation), size) for step in graph.steps(model)]


def _examples(model: keras.Model, shape: Sequence[int]) -> Tensor:
    """Floats in [0, 1), or the integers 0 and 1."""
    generator = np.random.default_rng(0)
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    floats = keras.backend.is_float_dtype(dtype)
    values = generator.random(shape) if floats else generator.integers(0, 2, shape)
    return tf.constant(values.astype(dtype))


def _gradients(model: keras.Model, x: Tensor) -> list[Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.cast(model(x, training=False), "float32"))
    return [found for found in tape.gradient(total, [x, *model.trainable_weights]) if found is not None]


def _seconds(run: Callable[[], Tensor]) -> float:
    """The fastest of a few runs, after one that traces."""
    traced = tf.function(run, autograph=False, jit_compile=False)
    _wait(traced())
    best, began = math.inf, time.perf_counter()
    for _ in range(REPEATS):
        started = time.perf_counter()
        _wait(traced())
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() - began > PASS_SECONDS:
            break
    return best


def _wait(tensors: Tensor) -> None:
    """A GPU says that it is done before it is."""
    for tensor in tf.nest.flatten(tensors):
        np.asarray(tensor if not isinstance(tensor, tf.IndexedSlices) else tensor.values)
