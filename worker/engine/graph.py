"""A model's graph as a flat list of steps, nested models opened, in the order in which Keras runs them.

Everything that reads Keras' bookkeeping of graphs (nodes, histories) stands here. A layer's own `output`
cannot be used for it: a Sequential model calls its layers anew each time one is added, and a layer that
lives in a nested model has one output there and none outside.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.backend import get_keras_mask  # not exported
from keras.src.models.functional import (  # not exported, and `keras.Model` is also what subclasses are
    Functional,
    operation_fn,
)

Operation = Any
"""A Keras layer, or one of the nameless functions (`x + y`) that Keras calls operations."""
Tensor = Any
"""A symbolic tensor of Keras."""


@dataclass
class Step:
    """One layer or operation, with all its uses in its own model."""

    path: str
    """Its name, with the names of the models around it: `outer/inner`."""
    operation: Operation
    uses: int
    outputs: list[Tensor]
    """Of its last use."""
    inputs: set[int] = field(default_factory=set)
    """Positions of the steps that feed it."""
    inside: tuple[str, ...] = ()
    """Why the models around it make a cut here impossible: sentences, outermost first."""


def is_model(operation: Operation) -> bool:
    """Whether it is a model with a graph of its own, which the layer table opens."""
    return isinstance(operation, keras.Sequential | Functional)


def graph_of(model: keras.Model) -> Any:  # noqa: ANN401 (Keras has no types)
    """The Functional that holds the model's nodes; a Sequential model keeps one inside."""
    return model._functional if isinstance(model, keras.Sequential) else model  # noqa: SLF001 (no public way)


def one_or_all(tensors: Sequence[Any]) -> Any:  # noqa: ANN401 (Keras has no types)
    """What Keras calls a model with: the one tensor, or the list where there are several inputs."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def maker_name(tensor: Tensor) -> str:
    """Of the layer that makes a symbolic tensor: for a model's input, of its input layer."""
    return str(tensor._keras_history.operation.name)  # noqa: SLF001 (no public way)


def nodes_of(model: keras.Model, operation: Operation) -> list[Any]:
    """The uses of an operation in this very model, first to last; its uses elsewhere are left out."""
    by_depth = graph_of(model)._nodes_by_depth  # noqa: SLF001 (no public way)
    own = {id(node) for nodes in by_depth.values() for node in nodes}
    return [node for node in operation._inbound_nodes if id(node) in own]  # noqa: SLF001 (no public way)


def ordered_nodes(model: keras.Model) -> list[Any]:
    """The model's own calls in the order in which Keras runs them, inputs left out."""
    by_depth = graph_of(model)._nodes_by_depth  # noqa: SLF001 (no public way)
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def called(operation: Operation, *, training: bool) -> Callable[..., Any]:
    """The operation, to be called as a Functional model calls it."""
    function: Callable[..., Any] = operation_fn(operation, training=training)
    return function


def mask_of(value: Tensor) -> Any:  # noqa: ANN401 (Keras has no types)
    """The mask that a computed tensor carries, or `None`."""
    return get_keras_mask(value)


def steps(model: keras.Model) -> list[Step]:
    """All layers and operations; of the input layers only the model's own, for the inner ones do nothing."""
    walk = _Walk()
    walk.open(model, fed_by=None, prefix="", inside=())
    return walk.steps


def leaves(model: keras.Model) -> Iterator[tuple[str, keras.Layer]]:
    """Path and layer of every step that is a layer and no input."""
    for step in steps(model):
        if isinstance(step.operation, keras.Layer) and not isinstance(step.operation, keras.layers.InputLayer):
            yield step.path, step.operation


class _Walk:
    """Collects steps; `origins` says for each tensor which steps made it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.origins: dict[int, set[int]] = {}

    def open(
        self, model: keras.Model, *, fed_by: Sequence[set[int]] | None, prefix: str, inside: tuple[str, ...]
    ) -> None:
        """Add the model's steps. `fed_by`: for each of its inputs the steps outside; `None`: it is outermost."""
        for position, tensor in enumerate(model.inputs):
            self.origins.setdefault(id(tensor), set()).update(fed_by[position] if fed_by else ())
        graph = graph_of(model)
        for operation in graph.operations:
            path, nodes = f"{prefix}{operation.name}", nodes_of(model, operation)
            if isinstance(operation, keras.layers.InputLayer):
                if fed_by is None:
                    self._add(Step(path, operation, 1, nodes[-1].output_tensors, inside=inside), nodes)
            elif is_model(operation):
                self._nested(operation, nodes, path, inside)
            else:
                fed = {origin for node in nodes for tensor in node.input_tensors for origin in self._from(tensor)}
                self._add(Step(path, operation, len(nodes), nodes[-1].output_tensors, fed, inside), nodes)

    def _add(self, step: Step, nodes: Sequence[Any]) -> None:
        position = len(self.steps)
        self.steps.append(step)
        for node in nodes:
            for tensor in node.output_tensors:
                self.origins.setdefault(id(tensor), set()).add(position)

    def _nested(self, model: keras.Model, nodes: Sequence[Any], path: str, inside: tuple[str, ...]) -> None:
        fed_by = [set().union(*(self._from(node.input_tensors[i]) for node in nodes)) for i in range(len(model.inputs))]
        self.open(model, fed_by=fed_by, prefix=f"{path}/", inside=(*inside, *_hindrances(model, nodes)))
        for node in nodes:
            for outer, inner in zip(node.output_tensors, model.outputs, strict=True):
                self.origins.setdefault(id(outer), set()).update(self._from(inner))

    def _from(self, tensor: Tensor) -> set[int]:
        return self.origins.get(id(tensor), set())


def _hindrances(model: keras.Model, nodes: Sequence[Any]) -> list[str]:
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        return [f"the model '{model.name}' around it has more than one input or output"]
    return [f"the model '{model.name}' around it is used {len(nodes)} times"] if len(nodes) > 1 else []
