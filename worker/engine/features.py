"""Cached features: the boundary's values for every example of the training and validation splits.

    features/<key>/features.json             shapes, dtypes, how long one pass took
    features/<key>/train-0.bin …             values of the first boundary tensor, in the split's stored order
    features/<key>/validation-0.bin …

The key says everything that decides the values: the prefix and its weights, preprocessing, dataset, batch size,
versions, device. So jobs share them by content, and a resumed job finds or makes the very same bits.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
import tensorflow as tf

from app.domain.dataset import SplitName
from worker.engine import durable, graph, runtime
from worker.engine.boundary import Boundary
from worker.engine.run import Run
from worker.engine.steps import traced

DESCRIPTION = "features.json"
CACHED_SPLITS: tuple[SplitName, ...] = ("train", "validation")
LARGE_BATCH = 64
"""Examples that go through the prefix at once, at least."""
_DROPPED = frozenset({"build_config", "compile_config", "shared_object_id", "seed", "name", "trainable"})
"""Of a layer's config: nothing of it changes what a still layer computes."""
_DROPPED_ENDINGS = ("_initializer", "_regularizer", "_constraint")

Array = np.ndarray[Any, Any]
_Tensor = tuple[list[int], str]
"""Shape without the batch axis, and dtype."""
GIB = 1024**3


class NotCacheableError(Exception):
    """The features cannot stand for the prefix; the message says why."""


class NoRoomError(NotCacheableError):
    """The disk has no room for the features now."""


@dataclass(frozen=True)
class Features:
    """The boundary's values for the examples of each split: one array `(n, …)` for each boundary tensor."""

    arrays: Mapping[SplitName, Sequence[Array]]
    pass_seconds: float
    """What one pass through the prefix took when they were made."""
    found: bool
    """Whether an earlier phase or job had made them."""

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays)


class Prefix:
    """The still part of a model: from preprocessed examples to the boundary's values."""

    def __init__(self, run: Run, boundary: Boundary) -> None:
        self._boundary = boundary
        self._specs = run.evaluation.forward.inputs
        self._function: Any = None

    def __call__(self, x: Any) -> list[Array]:  # noqa: ANN401 (a batch, as the pipeline gives it)
        """The values for a batch. Raises `NotCacheableError` if they carry a mask, which arrays cannot."""
        if self._function is None:
            self._function = traced(self._run, self._specs)
        inputs = x if isinstance(x, list) else [x]
        return [np.asarray(value) for value in self._function(*map(tf.convert_to_tensor, inputs))]

    def _run(self, *inputs: Any) -> list[Any]:  # noqa: ANN401 (TensorFlow has no types)
        wiring = self._boundary.wiring
        known = dict(zip(wiring.inputs, inputs, strict=True))
        values = wiring.run(known, self._boundary.keys, training=False)
        if any(graph.mask_of(value) is not None for value in values):
            message = "what passes it carries a mask"
            raise NotCacheableError(message)
        return values


def obtain(run: Run, boundary: Boundary, prefix: Prefix, *, prints: Mapping[int, str], stack: ExitStack) -> Features:
    """The features, found or made; they stay where they are until `stack` is closed.

    `prints`: fingerprints of the frozen weights, by the ids of their variables. Raises `NotCacheableError`, and
    whatever the reporter's `check` raises.
    """
    made = False

    def fill(folder: Path) -> None:
        nonlocal made
        made = True
        _fill(run, prefix, folder)

    key = _key(run, boundary, prints)
    folder = stack.enter_context(run.features.folder(key, fill, scratch=run.workdir))
    return _open(folder, found=not made)


# === Make ===


def large_batch(run: Run) -> int:
    """How many examples go through the prefix at once; memory stays below that of a training step of twice as many."""
    return max(LARGE_BATCH, run.batch_size)


def _fill(run: Run, prefix: Prefix, folder: Path) -> None:
    started = time.perf_counter()
    tensors: list[_Tensor] = []
    for name, split in (("train", run.train), ("validation", run.validation)):
        with ExitStack() as files:
            outputs: list[BinaryIO] = []
            for x, _ in split.batches(large_batch(run), preprocess=run.preprocess, shuffle_seed=None):
                run.reporter.check()
                values = prefix(x)
                if not tensors:
                    tensors = [(list(value.shape[1:]), value.dtype.name) for value in values]
                    _require_room(run, folder, values)
                if not outputs:
                    paths = [folder / f"{name}-{number}.bin" for number in range(len(values))]
                    outputs = [files.enter_context(path.open("wb")) for path in paths]
                _append(outputs, values, tensors)
    description = {"tensors": tensors, "pass_seconds": time.perf_counter() - started}
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def _append(outputs: Sequence[BinaryIO], values: Sequence[Array], tensors: Sequence[_Tensor]) -> None:
    for file, value, (shape, _) in zip(outputs, values, tensors, strict=True):
        if list(value.shape[1:]) != shape:
            message = "the shape of what passes it differs from batch to batch"
            raise NotCacheableError(message)
        file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _require_room(run: Run, folder: Path, values: Sequence[Array]) -> None:
    needed = sum(value.nbytes // len(value) for value in values) * (len(run.train) + len(run.validation))
    allowed = run.features.max_bytes
    if needed > allowed:
        message = f"the features would take {needed / GIB:.1f} GiB, and {allowed / GIB:.1f} GiB are allowed"
        raise NotCacheableError(message)
    if not durable.has_room(folder, needed):
        message = f"there is no room on the disk for {needed:,} bytes of features"
        raise NoRoomError(message)


def _open(folder: Path, *, found: bool) -> Features:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))

    def arrays(name: SplitName) -> list[Array]:
        return [
            # `tf.as_dtype` knows bfloat16 too, which numpy alone does not.
            np.asarray(np.memmap(folder / f"{name}-{number}.bin", tf.as_dtype(dtype).as_numpy_dtype, mode="r")).reshape(
                -1, *shape
            )
            for number, (shape, dtype) in enumerate(description["tensors"])
        ]

    return Features(
        arrays={name: arrays(name) for name in CACHED_SPLITS},
        pass_seconds=description["pass_seconds"],
        found=found,
    )


# === Key ===


def _key(run: Run, boundary: Boundary, prints: Mapping[int, str]) -> str:
    facts = {
        "prefix": _described(boundary, prints),
        "preprocess": repr(run.preprocess),
        "dataset": run.dataset_digest,
        "batch": large_batch(run),
        "device": runtime.device_name(),
        "versions": {name: runtime.versions()[name] for name in ("keras", "tensorflow", "numpy")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _described(boundary: Boundary, prints: Mapping[int, str]) -> list[Any]:
    """The prefix's calls: class, config and weights of each, and where its inputs come from."""
    wiring, below = boundary.wiring, {id(layer) for layer in boundary.prefix}
    numbers = {key: number for number, key in enumerate(wiring.symbolic)}

    def argument(value: Any) -> str:  # noqa: ANN401 (whatever a layer is called with)
        return f"tensor {numbers[wiring.key(value)]}" if isinstance(value, keras.KerasTensor) else repr(value)

    calls = [
        {
            "config": _stripped(keras.saving.serialize_keras_object(call.operation)),
            "weights": [prints[id(weight)] for weight in getattr(call.operation, "weights", ())],
            "arguments": repr(
                keras.tree.map_structure(argument, (call.node.arguments.args, call.node.arguments.kwargs))
            ),
            "outputs": [numbers[key] for key in call.outputs],
        }
        for call in wiring.calls
        if id(call.operation) in below
    ]
    return [*calls, [numbers[key] for key in boundary.keys]]


def _stripped(value: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(value, dict):
        return {
            key: _stripped(item)
            for key, item in value.items()
            if key not in _DROPPED and not key.endswith(_DROPPED_ENDINGS)
        }
    return [_stripped(item) for item in value] if isinstance(value, list | tuple) else value
