"""From a phase to what trains: select layers, divide the weights, set Keras' flags.

    phase --select--> Selection: weights that must stay still | weights that train --freeze--> trainable flags

Selections of all phases are made before the first one trains: a phase that selects nothing fails at once, not
after hours. `trainable` takes effect when a step is traced and its optimizer built, so both are made anew for
each phase.

BatchNormalization of the backbone is held still, unfrozen or not, gamma, beta and statistics, unless the phase says
`batch_norm: train`: its statistics come from the many examples of the source's own training; batches of a small
dataset would replace them by noise. A backbone with random weights has no such statistics, so there it trains like
every other layer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from app.domain.cuts import select_unfrozen
from app.domain.errors import UserError
from app.domain.learning_rates import layer_factors
from app.domain.model import LayerRow
from app.domain.phases import Phase
from worker.engine import surgery
from worker.engine.canonical import key_of
from worker.engine.steps import Network

Variables = dict[str, Any]
"""Keras variables by their names in the canonical form: `<path of the layer>/<number>.<name>`."""


@dataclass(frozen=True)
class Selection:
    """What trains in a phase. Statistics of layers that train are on neither side: they may move."""

    layers: frozenset[str]
    """Paths of the unfrozen layers of the backbone; the head's always train."""
    held: frozenset[str]
    """Of these the ones that hold still nevertheless, because they are BatchNormalization."""
    frozen: Variables
    trained: Variables
    factors: dict[str, float]
    """By path of an unfrozen layer of the backbone, the part of the phase's learning rate that it gets."""

    def rate_factors(self) -> list[tuple[Any, float]]:
        """The trained variables of the backbone, each with its part of the learning rate."""
        paths = {name: name.rpartition("/")[0] for name in self.trained}
        return [(self.trained[name], self.factors[path]) for name, path in paths.items() if path in self.factors]

    def sizes(self) -> tuple[int, int]:
        """How many numbers train, and how many are frozen."""
        return _numbers(self.trained), _numbers(self.frozen)


def weights_of(model: keras.Model) -> Variables:
    """Every weight of a model; states of random generators are no weights."""
    return {name: variable for path, layer in surgery.leaf_layers(model) for name, variable in _named(path, layer)}


def select(network: Network, phase: Phase, *, hold_batch_norm: bool = True) -> Selection:
    """What a phase unfreezes, decided from the layer table; leaves every layer of the model trainable.

    `hold_batch_norm`: whether the phase's `batch_norm` counts; otherwise it trains wherever it is unfrozen.
    Raises `UserError` with code `nothing_to_unfreeze`, `unknown_layer` or `invalid_pattern`, with the phase's name.
    """
    _make_trainable(network.model)  # a variable's own flag now says whether gradients move it at all
    hold_batch_norm = hold_batch_norm and phase.batch_norm == "frozen"
    rows = _unfrozen(network.backbone, phase)
    layers = frozenset(row.path for row in rows)
    backbone = dict(surgery.leaf_layers(network.backbone))
    norms = [norm for layer in backbone.values() for norm in _batch_norms(layer)] if hold_batch_norm else []
    still = {id(weight) for path, layer in backbone.items() if path not in layers for weight in layer.weights}
    still |= {id(weight) for norm in norms for weight in norm.weights}
    weights = weights_of(network.model)
    selection = Selection(
        layers=layers,
        held=frozenset(path for path in layers if hold_batch_norm and _batch_norms(backbone[path])),
        frozen={name: weight for name, weight in weights.items() if id(weight) in still},
        trained={name: weight for name, weight in weights.items() if id(weight) not in still and weight.trainable},
        factors=layer_factors(rows, phase.layer_decay),
    )
    _refuse_nothing(phase, selection, [backbone[path] for path in layers])
    return selection


def freeze(network: Network, selection: Selection) -> None:
    """Set the trainable flag of every layer of the model."""
    _make_trainable(network.model)
    for path, layer in surgery.leaf_layers(network.backbone):
        if path not in selection.layers:
            layer.trainable = False
        for norm in _batch_norms(layer) if path in selection.held else ():
            norm.trainable = False


def _make_trainable(model: keras.Model) -> None:
    # One by one: assigning a flag that a model has already does nothing on TensorFlow, not even to what is inside.
    for layer in model._flatten_layers():  # noqa: SLF001 (no public way to look inside wrappers)
        layer.trainable = True


def _unfrozen(backbone: keras.Model, phase: Phase) -> list[LayerRow]:
    try:
        return select_unfrozen(surgery.layer_table(backbone), phase.unfreeze)
    except UserError as error:
        error.phase = phase.name
        raise


def _refuse_nothing(phase: Phase, selection: Selection, layers: list[keras.Layer]) -> None:
    trained = {id(weight) for weight in selection.trained.values()}
    if not layers or any(id(weight) in trained for layer in layers for weight in layer.weights):
        return
    message = (
        f"Phase '{phase.name}' unfreezes nothing but {', '.join(sorted(selection.layers)[:5])}, of which no weight "
        "trains: BatchNormalization is held still. Unfreeze other layers too, say 'none', or batch_norm 'train'."
    )
    raise UserError(message, code="nothing_to_unfreeze", param="unfreeze", phase=phase.name)


def _batch_norms(layer: keras.Layer) -> list[keras.Layer]:
    """The layer itself, or what it wraps, where that is BatchNormalization."""
    inner = layer._flatten_layers()  # noqa: SLF001 (no public way to look inside wrappers)
    return [found for found in inner if isinstance(found, keras.layers.BatchNormalization)]


def _named(path: str, layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    for number, variable in enumerate(layer.weights):
        yield key_of(path, number, variable), variable


def _numbers(variables: Variables) -> int:
    return sum(math.prod(variable.shape) for variable in variables.values())
