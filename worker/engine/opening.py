"""Blocks, taken apart: a model with layers that are made of layers becomes one of Keras' own layers.

    block(x)  ──▶  conv ─ batch norm ─ activation ─ add      the same layers, with the same weights

A block is opened by running its `call` on symbolic tensors, so that each of its parts becomes a step of the graph.
That says what the block computes only if nothing of it stays outside of its parts: a block stays closed that has
weights or random numbers of its own, that computes otherwise while training, that decides for its parts whether they
train (a model tells all of its layers), or whose code needs numbers.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import keras

from worker.engine import graph


class ClosedError(Exception):
    """Some layers cannot be opened; `classes` names them."""

    def __init__(self, classes: Iterable[str]) -> None:
        self.classes = sorted(set(classes))
        super().__init__(", ".join(self.classes))


def opened(model: keras.Model) -> keras.Model:
    """A plain Functional model of what `model` and its blocks are made of. It shares the layers, and so the weights.

    Parts whose name does not say their block get that before theirs. Raises `ClosedError`.
    """
    plain = keras.Model(graph.one_or_all(model.inputs), graph.one_or_all(model.outputs), name=model.name)
    while blocks := [operation for operation in plain.operations if _is_block(operation)]:
        if closed := [type(block).__name__ for block in blocks if _owns(block)]:
            raise ClosedError(closed)
        plain = _one_level(plain)
    return plain


def _is_block(operation: graph.Operation) -> bool:
    return type(operation).__module__.split(".")[0] != "keras"


def _owns(block: graph.Operation) -> bool:
    """Whether it has weights, or states of random numbers, that belong to none of its layers."""
    parts = {id(weight) for layer in block._flatten_layers(include_self=False) for weight in layer.variables}  # noqa: SLF001 (no public way)
    return any(id(weight) not in parts for weight in block.variables)


def _one_level(model: keras.Model) -> keras.Model:
    """The model with its blocks opened; what is inside these may be blocks again."""
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=graph.maker_name(tensor))
        for tensor in model.inputs
    ]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    for node in graph.ordered_nodes(model):
        args, kwargs = node.arguments.fill_in(tensors)
        call = _call_parts if _is_block(node.operation) else _call
        outputs = keras.tree.flatten(call(node.operation, args, kwargs))
        tensors.update({id(old): new for old, new in zip(node.output_tensors, outputs, strict=True)})
    outputs = [tensors[id(tensor)] for tensor in model.outputs]
    return keras.Model(graph.one_or_all(inputs), graph.one_or_all(outputs), name=model.name)


def _call(operation: graph.Operation, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 (tensors of Keras)
    return operation(*args, **kwargs)


def _call_parts(block: graph.Operation, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 (tensors of Keras)
    try:
        outputs, *told = (_traced(block, args, kwargs, training=training) for training in (None, False, True))
        nodes, *others = (_nodes_between((args, kwargs), each) for each in (outputs, *told))
    except Exception as error:  # code that was written for numbers raises anything on symbolic tensors
        raise ClosedError([type(block).__name__]) from error
    for training, other in zip((False, True), others, strict=True):
        if _account(other) != _account(nodes) or any(_is_told_otherwise(node, training=training) for node in other):
            raise ClosedError([type(block).__name__])
    for part in [node.operation for node in nodes]:
        if not part.name.startswith(block.name):
            part.name = f"{block.name}_{part.name}"
    return outputs


def _traced(block: graph.Operation, args: Any, kwargs: Any, *, training: bool | None) -> Any:  # noqa: ANN401 (as above)
    """What the block's code makes of symbolic tensors, in a model that says whether it trains; `None`: it does not."""
    passed = {"training": training} if _knows_training(block) else {}
    block._get_call_context().set_value("training", training)  # noqa: SLF001 (no public way to trace the parts)
    try:
        return block.call(*args, **{**kwargs, **passed})
    finally:
        block._maybe_reset_call_context()  # noqa: SLF001 (as above)


def _knows_training(operation: graph.Operation) -> bool:
    return "training" in inspect.signature(operation.call).parameters


def _is_told_otherwise(node: Any, *, training: bool) -> bool:  # noqa: ANN401 (a node of Keras)
    return _knows_training(node.operation) and node.arguments.kwargs.get("training") is not training


def _nodes_between(inputs: Any, outputs: Any) -> list[Any]:  # noqa: ANN401 (tensors of Keras)
    """The calls that lead from the one to the other, in the order in which Keras runs them."""
    return graph.ordered_nodes(keras.Function(_tensors(inputs), _tensors(outputs)))


def _tensors(values: Any) -> list[graph.Tensor]:  # noqa: ANN401 (tensors of Keras)
    return [value for value in keras.tree.flatten(values) if isinstance(value, keras.KerasTensor)]


def _account(nodes: Iterable[Any]) -> list[tuple[type, str]]:
    """What is called, and with what beside the tensors and whether it trains."""
    return [(type(node.operation), repr([_plain(node.arguments.args), _plain(_others(node))])) for node in nodes]


def _others(node: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 (a node of Keras)
    return [(name, value) for name, value in sorted(node.arguments.kwargs.items()) if name != "training"]


def _plain(arguments: Any) -> Any:  # noqa: ANN401 (what layers are called with)
    return keras.tree.map_structure(lambda value: "" if isinstance(value, keras.KerasTensor) else value, arguments)
