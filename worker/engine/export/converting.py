"""The converting process: makes each export, loads it with its own runtime, compares it, and writes down the outcome.

It runs on the CPU, without the training process's determinism, optimizer and GPU memory, and may crash alone.
"""

import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from app.domain.errors import WorkError
from app.domain.exports import Export, ExportedInput, ExportFormat
from worker.engine import durable
from worker.engine.data import Split, open_dataset
from worker.engine.export.comparison import compare
from worker.engine.export.inputs import Array, Batch, batch_of_one, fitted, inputs_of, predictions
from worker.engine.export.keras_file import named
from worker.engine.export.litert import LiteRt
from worker.engine.export.onnx import OPSET, Onnx
from worker.engine.export.order import Order
from worker.engine.export.saved_model import SavedModel
from worker.engine.objective import Objective

CHECKED_EXAMPLES = 64
"""At most so many test examples go through each file."""
REPRESENTATIVE_EXAMPLES = 128
"""At most so many training examples show which ranges the activations have."""
REPRESENTATIVE_BYTES = 256 * 2**20
"""And no more of them than fit in here, but at least one."""


class Converter(Protocol):
    """What each format has."""

    runtime: str
    inputs: list[ExportedInput]

    def write(self, path: Path) -> None:
        """Convert the model and write the file."""

    def predict(self, path: Path, batches: list[Batch]) -> Array:
        """Load the file and ask it about batches of one: `(n, outputs)`."""


def main(order: Order) -> None:
    """Make every export of the order, one after another; each that fails says why."""
    bench = Bench(order)
    for wanted in order.formats:
        order.answer(make(bench, wanted))


class Bench:
    """The model and the examples that its exports are made and judged with."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.objective = Objective(order.task)
        self._expected: dict[str, Array] = {}

    @cached_property
    def model(self) -> keras.Model:
        """`model.keras`, read back."""
        return keras.saving.load_model(self.order.model, compile=False)

    @cached_property
    def _splits(self) -> dict[str, Split]:
        data = open_dataset(self.order.data)
        return {"train": data.split("train"), "test": data.split("test")}

    def converter(self, wanted: ExportFormat) -> Converter:
        """What makes this format. Raises `UserError` if the model cannot be had in it, `ImportError`."""
        if wanted == "saved_model":
            return SavedModel(self.model)
        if wanted == "onnx":
            return Onnx(self.model)
        representative = self.representative if wanted == "litert_int8" else None
        return LiteRt(self.model, image_size=self.order.image_size, representative=representative)

    @property
    def labels(self) -> Array:
        """Of the checked examples."""
        return self._splits["test"].labels[:CHECKED_EXAMPLES]

    def checked(self, inputs: list[ExportedInput]) -> list[Batch]:
        """Test examples in the form of these inputs."""
        return [self._taken("test", index, inputs) for index in range(len(self.labels))]

    def expected(self, inputs: list[ExportedInput], batches: list[Batch]) -> Array:
        """What `model.keras` predicts for them."""
        key = repr([each.shape for each in inputs])
        if key not in self._expected:
            self._expected[key] = predictions(self.model, batches)
        return self._expected[key]

    def representative(self, inputs: list[ExportedInput]) -> Iterator[Batch]:
        """Training examples, chosen by the job's seed and by nothing that was learned from the other splits."""
        count = len(self._splits["train"])
        chosen = np.random.default_rng(self.order.seed).permutation(count)[:REPRESENTATIVE_EXAMPLES]
        taken_bytes = 0
        for index in chosen:
            batch = self._taken("train", int(index), inputs)
            taken_bytes += sum(value.nbytes for value in batch)
            if taken_bytes > REPRESENTATIVE_BYTES and index != chosen[0]:
                return
            yield batch

    def _taken(self, split: str, index: int, inputs: list[ExportedInput]) -> Batch:
        raw = named(self._splits[split].raw(index), self.order.names)
        example = {name: value[0] for name, value in raw.items()} if isinstance(raw, dict) else raw[0]
        return fitted(inputs, batch_of_one(inputs_of(self.model), example))


def make(bench: Bench, wanted: ExportFormat) -> Export:
    """Convert, load, compare. What a converter or a runtime raises is an export that failed; only a full disk is not.

    Raises what was raised for want of room on the disk.
    """
    started = time.perf_counter()
    try:
        return _made(bench, wanted, started)
    except Exception as error:  # the edge: converters raise whatever they like
        if durable.lacks_room(error):
            raise
        reason = _reason(error)
    sys.stderr.write(f"{wanted}: {reason}\n")
    return Export(format=wanted, status="failed", reason=reason, seconds=time.perf_counter() - started)


def _made(bench: Bench, wanted: ExportFormat, started: float) -> Export:
    converter = bench.converter(wanted)
    path = bench.order.file(wanted)
    with durable.replacing(path) as temporary:
        converter.write(temporary)
        batches = bench.checked(converter.inputs)
        received = converter.predict(temporary, batches)
        expected = bench.expected(converter.inputs, batches)
        comparison = compare(wanted, expected, received, labels=bench.labels, objective=bench.objective)
    return Export(
        format=wanted,
        status="succeeded",
        file=path.name,
        inputs=converter.inputs,
        runtime=converter.runtime,
        opset=OPSET if wanted == "onnx" else None,
        seconds=time.perf_counter() - started,
        **comparison.figures(),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"This worker has no '{error.name}', which this format needs. Install it: pip install 'thaw[export]'."
    if isinstance(error, WorkError):
        return error.message
    return f"The converter failed: {_first_words(error)}"


def _first_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
