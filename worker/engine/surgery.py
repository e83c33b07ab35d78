"""Surgery on models: list the layers, cut, clone, put a new head on.

    source ──cut_at──▶ backbone (own layers, own variables) ──attach_head──▶ model

The source is only read. `keras.Model(source.inputs, tensor)` alone would not do: its layers are the source's
own, and training it would train the source.
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras

from app.domain import kept
from app.domain.cuts import kept_rows, one_tensor_wide, resolve_cut
from app.domain.errors import UserError
from app.domain.head import Head, HeadLayer
from app.domain.model import LayerRow
from app.domain.naming import Names
from app.domain.spec import Cut, Task
from worker.engine import graph, heads, seeds, traits
from worker.engine.canonical import Source, copy_weights
from worker.engine.precision import Precision, converted, default_policy, policy_name

BACKBONE = "backbone"
OUTPUT = "output"
RESULT = "model"
HEAD_RANKS = range(2, 6)
"""Ranks, batch axis included, that a head can take: vectors, sequences, feature maps, volumes."""


# === Layer table ===


def layer_table(model: keras.Model) -> list[LayerRow]:
    """One row for each layer of a built Sequential or Functional model, in the order in which they run."""
    steps = graph.steps(model)
    rows = [_row(index, step) for index, step in enumerate(steps)]
    if any(step.uses > 1 for step in steps):
        rows = [_outside_branches(row, wide) for row, wide in zip(rows, one_tensor_wide(rows), strict=True)]
    return rows


def leaf_layers(model: keras.Model) -> list[tuple[str, keras.Layer]]:
    """Path and layer for each row of `layer_table(model)` that is a layer, inputs left out."""
    return list(graph.leaves(model))


def _row(index: int, step: graph.Step) -> LayerRow:
    because = _illegal_because(step)
    parameters = _parameters(step.operation)
    shapes = [list(tensor.shape) for tensor in step.outputs]
    return LayerRow(
        index=index,
        path=step.path,
        class_name=type(step.operation).__name__,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        parameters=parameters,
        has_weights=parameters > 0,
        legal_cut=because is None,
        illegal_because=because,
        inputs=sorted(step.inputs),
        trainable_parameters=traits.trainable_parameters(step.operation),
        stochastic=traits.is_stochastic(step.operation),
        batch_norm=traits.is_batch_norm(step.operation),
    )


def _parameters(operation: graph.Operation) -> int:
    return operation.count_params() if isinstance(operation, keras.Layer) else 0


def _illegal_because(step: graph.Step) -> str | None:
    """Why a head cannot sit on this step's output, or `None` if it can."""
    if isinstance(step.operation, keras.layers.InputLayer):
        return "it is the input, so nothing would be reused"
    if step.uses > 1:
        return f"it is used {step.uses} times, so it has no one output"
    if len(step.outputs) != 1:
        return f"it has {len(step.outputs)} outputs, and a head takes one"
    return step.inside[0] if step.inside else _unsuitable(step.outputs[0])


def _unsuitable(tensor: graph.Tensor) -> str | None:
    shape = list(tensor.shape)
    if len(shape) not in HEAD_RANKS:
        return f"its output has shape {shape}, and a head takes {HEAD_RANKS.start} to {HEAD_RANKS.stop - 1} axes"
    if shape[-1] is None:
        return f"the last axis of its output {shape} has no fixed size"
    if not keras.backend.is_float_dtype(tensor.dtype):
        return f"its output is {tensor.dtype}, and a head takes floating-point numbers"
    return None


def _outside_branches(row: LayerRow, wide: bool) -> LayerRow:  # noqa: FBT001 (private, zipped)
    """Where a layer is used more than once, what lies below a branch cannot be told from rows alone."""
    if wide or not row.legal_cut:
        return row
    because = "it lies inside a branch of a model that uses some layer more than once"
    return row.model_copy(update={"legal_cut": False, "illegal_because": because})


# === Cut ===


def cut_at(
    source: Source,
    cut: Cut,
    *,
    seed: int = 0,
    weights: Literal["source", "random"] = "source",
    precision: Precision = "off",
) -> keras.Model:
    """The backbone: a clone of the source up to the cut, with its weights, or with new ones drawn from `seed`.

    The clone is a Functional model named `backbone`, with those of the source's inputs that the cut layer needs; its
    layers keep their names and paths, and a nested model that is cut keeps its name. Dropout and the like that have
    no seed get one that follows from `seed` and the path. Raises `CutError`.
    """
    rows = layer_table(source.model)
    row = resolve_cut(rows, cut, model=source.info.name)
    policy = None if precision == "off" else policy_name(precision)
    cloner = _Cloner(source.model, seed=seed, initializers=weights == "random", policy=policy)
    used = {needed.path for needed in kept_rows(rows, row)}
    inputs = [tensor for tensor in source.model.inputs if graph.maker_name(tensor) in used]
    backbone = cloner.up_to(source.model, row.path.split("/"), name=BACKBONE, inputs=inputs)
    if weights == "source":
        copy_weights(source.model, backbone)
    return backbone


def in_float32(model: keras.Model, *, seed: int) -> keras.Model:
    """A clone of a model that was trained in mixed precision, with its weights, that computes in float32."""
    clone = _Cloner(model, seed=seed, initializers=False, policy=policy_name("off")).whole(model)
    copy_weights(model, clone)
    return clone


class _Cloner:
    """Clones parts of one model: new layers, new variables, nothing shared."""

    def __init__(self, model: keras.Model, *, seed: int, initializers: bool, policy: str | None = None) -> None:
        """`policy`: the dtype policy that its layers get; `None`: their own."""
        self._policy = policy
        self._paths = {id(layer): path for path, layer in graph.leaves(model)}
        self._seed = seed
        self._initializers = initializers
        self._done: dict[int, Any] = {}

    def whole(self, model: keras.Model) -> keras.Model:
        """A clone of all of the model."""
        return self._clone_graph(model)

    def up_to(
        self, model: keras.Model, path: Sequence[str], *, name: str, inputs: Sequence[graph.Tensor]
    ) -> keras.Model:
        """A clone of the model from `inputs` up to the layer at `path`, which may lie in a nested model."""
        operation = next(operation for operation in graph.graph_of(model).operations if operation.name == path[0])
        if len(path) > 1:
            self._done[id(operation)] = self.up_to(operation, path[1:], name=operation.name, inputs=operation.inputs)
        end = graph.nodes_of(model, operation)[-1].output_tensors[0]
        # On the model's own layers, and only to be cloned: this adds nothing to them.
        return self._clone_graph(keras.Model(graph.one_or_all(inputs), end, name=name))

    def _clone(self, operation: graph.Operation) -> graph.Operation:
        if id(operation) not in self._done:
            is_model = graph.is_model(operation)
            self._done[id(operation)] = self._clone_graph(operation) if is_model else self._clone_leaf(operation)
        return self._done[id(operation)]

    def _clone_graph(self, model: keras.Model) -> keras.Model:
        return keras.models.clone_model(model, clone_function=self._clone)

    def leaf(self, layer: graph.Operation, *, name: str) -> graph.Operation:
        """A clone of one layer, not yet built, with another name."""
        clone = self._clone_leaf(layer)
        return clone if clone.name == name else type(clone).from_config({**clone.get_config(), "name": name})

    def _clone_leaf(self, operation: graph.Operation) -> graph.Operation:
        name = self._paths.get(id(operation), operation.name)
        config = seeds.seeded(operation.get_config(), seed=self._seed, name=name, initializers=self._initializers)
        return type(operation).from_config(converted(operation, config, self._policy) if self._policy else config)


# === Head ===


def attach_head(
    backbone: keras.Model, head: Head, *, task: Task, outputs: int, seed: int, precision: Precision = "off"
) -> keras.Model:
    """Put a head on a backbone: its layers, then the output layer that the task asks for.

    `outputs`: number of classes (`single_label`, `multi_label`) or of targets (`regression`); 1 for `binary`. The
    result is one Functional model on the backbone's own layers, with float32 output `(batch, outputs)`; its
    `leaf_layers` are the backbone's and the head's, whose names begin with `head_`, and `output`. Pooling a vector
    leaves it as it is. Seeds follow from `seed`. Raises `UserError` if the head does not fit on the backbone.
    """
    names = Names(operation.name for operation in graph.graph_of(backbone).operations)
    tensor = backbone.outputs[0]
    for wish in head.on(len(tensor.shape)):
        with default_policy(precision):
            layer = heads.layer(wish, rank=len(tensor.shape), name=names.fresh(f"head_{wish.type}"), seed=seed)
        tensor = layer(tensor)
        _check_features(tensor, wish)
    output = heads.output_layer(task, outputs, name=names.fresh(OUTPUT), seed=seed)
    return keras.Model(graph.one_or_all(backbone.inputs), output(tensor), name=RESULT)


def keep_head(
    source: Source, backbone: keras.Model, *, task: Task, seed: int, weights: Literal["source", "random"] = "source"
) -> keras.Model:
    """Put a clone of the source's own output layer on a backbone that was cut right below it (`kept.split`).

    Like `attach_head`, but the layers keep their names, and their weights unless `weights` is `random`. It computes
    in what the source's layer computes in. Raises `UserError` if its activation is not the task's.
    """
    _, rows = kept.split(layer_table(source.model))
    layers = [step.operation for step in graph.steps(source.model)[rows[0].index :]]
    activation, wanted = heads.ends_in(layers), heads.OUTPUT_ACTIVATION[task]
    if activation != wanted:
        message = (
            f"head 'keep' needs an output layer with the activation '{wanted}' for the task '{task}'; the source's "
            f"ends in '{activation}'. {kept.ADVICE}"
        )
        raise UserError(message, code="head_does_not_fit", param="head")
    cloner = _Cloner(source.model, seed=seed, initializers=weights == "random")
    names = Names(operation.name for operation in graph.graph_of(backbone).operations)
    tensor = backbone.outputs[0]
    for layer in layers:
        clone = cloner.leaf(layer, name=names.fresh(layer.name))
        tensor = clone(tensor)
        if weights == "source" and isinstance(layer, keras.Layer):
            clone.set_weights(layer.get_weights())
    return keras.Model(graph.one_or_all(backbone.inputs), tensor, name=RESULT)


def _check_features(tensor: graph.Tensor, wish: HeadLayer) -> None:
    if tensor.shape[-1] is None:
        message = (
            f"The head's '{wish.type}' has no fixed number of outputs, because the backbone takes inputs of any size. "
            "Begin the head with global_average_pooling instead."
        )
        raise UserError(message, code="head_does_not_fit", param="head.layers")
