"""A model as a list of calls, nested models opened, so that a part of it can run by itself.

    wiring.run({input: x}, wanted=[boundary])          the prefix
    wiring.run({boundary: features}, wanted=[output])  the rest, on the very same layers

`keras.Model(tensor, other_tensor)` would do for flat models, but not for what lies inside nested ones. The layers
are called as `keras.Model` calls them, `training` included, so results have the same bits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from worker.engine import graph

Key = int
"""Names a symbolic tensor: what one of its makers gave it, whatever models it passes through."""
Tensor = Any


@dataclass(frozen=True)
class Call:
    """One use of a layer or operation."""

    operation: graph.Operation
    node: Any
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]


class Wiring:
    """The calls of a Functional or Sequential model, in the order in which they run.

    A nested model that is used several times, or takes or gives several tensors, stays one call.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls: list[Call] = []
        self._same: dict[int, Key] = {}
        self._open(model)
        self.inputs = [self.key(tensor) for tensor in model.inputs]
        self.outputs = [self.key(tensor) for tensor in model.outputs]
        tensors = [*model.inputs, *(tensor for call in self.calls for tensor in call.node.output_tensors)]
        self.symbolic: dict[Key, Tensor] = {self.key(tensor): tensor for tensor in tensors}
        """The symbolic tensor of each key: its shape and dtype."""

    def run(self, known: Mapping[Key, Tensor], wanted: Sequence[Key], *, training: bool) -> list[Tensor]:
        """The values of `wanted`, computed from those that are known; nothing else is computed.

        With `training` every layer is called in training mode, as `model(x, training=True)` does.
        """
        values = dict(known)
        for call in self._needed(known, wanted):
            arguments = {id(tensor): values[self.key(tensor)] for tensor in call.node.input_tensors}
            args, kwargs = call.node.arguments.fill_in(arguments)
            outputs = graph.called(call.operation, training=training)(*args, **kwargs)
            values.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))
        return [values[key] for key in wanted]

    def layers(self, known: Iterable[Key], wanted: Sequence[Key]) -> list[graph.Operation]:
        """The layers and operations that `run` would call, each once."""
        return list({id(call.operation): call.operation for call in self._needed(known, wanted)}.values())

    def _needed(self, known: Iterable[Key], wanted: Sequence[Key]) -> list[Call]:
        missing, calls = set(wanted) - set(known), []
        for call in reversed(self.calls):
            if missing & set(call.outputs):
                calls.append(call)
                missing |= set(call.inputs) - set(known)
        return calls[::-1]

    def _open(self, model: keras.Model) -> None:
        for node in graph.ordered_nodes(model):
            operation = node.operation
            if graph.is_model(operation) and self._alone(model, operation):
                for outer, inner in zip(node.input_tensors, operation.inputs, strict=True):
                    self._same[id(inner)] = self.key(outer)
                self._open(operation)
                for outer, inner in zip(node.output_tensors, operation.outputs, strict=True):
                    self._same[id(outer)] = self.key(inner)
            else:
                inputs = tuple(dict.fromkeys(self.key(tensor) for tensor in node.input_tensors))
                outputs = tuple(self.key(tensor) for tensor in node.output_tensors)
                self.calls.append(Call(operation, node, inputs, outputs))

    def _alone(self, model: keras.Model, nested: keras.Model) -> bool:
        return len(graph.nodes_of(model, nested)) == len(nested.inputs) == len(nested.outputs) == 1

    def key(self, tensor: Tensor) -> Key:
        """The name of a symbolic tensor of the model."""
        return self._same.get(id(tensor), id(tensor))
