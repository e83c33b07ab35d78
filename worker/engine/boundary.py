"""The boundary of a phase: the deepest tensors that give the same values for an example in every epoch.

    examples ─ still layers ─▶ boundary ─ layers that train or draw ─▶ outputs
               '-- prefix --'             '--------- rest ---------'

A layer is still if all that feeds it is still, none of its weights may move in this phase, and it draws nothing at
random. Where no weight of the backbone trains, all of the backbone runs as it will after the training (see
`steps`), so its dropout draws nothing. The same rules, on layer tables, stand in `app.domain.boundary`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from worker.engine import graph
from worker.engine.schedule import Selection
from worker.engine.steps import Network
from worker.engine.traits import draws
from worker.engine.wiring import Key, Wiring


@dataclass(frozen=True)
class Boundary:
    """Where the frozen prefix of a phase ends."""

    wiring: Wiring
    keys: tuple[Key, ...]
    """The tensors that pass, in the order in which they are made."""
    makers: tuple[str, ...]
    """Names of the layers that make them."""
    prefix: tuple[graph.Operation, ...]
    """The layers below."""

    @property
    def has_weights(self) -> bool:
        """Whether there is anything below that computes."""
        return any(isinstance(layer, keras.Layer) and layer.weights for layer in self.prefix)


def find(network: Network, wiring: Wiring, selection: Selection) -> Boundary:
    """The boundary of a phase that trains what `selection` says; the trainable flags must be set already."""
    movable = {id(weight) for weight in network.model.weights} - {id(weight) for weight in selection.frozen.values()}
    resting = _resting(network)
    still = set(wiring.inputs)
    for call in wiring.calls:
        if still.issuperset(call.inputs) and not _moves(call.operation, movable, resting):
            still.update(call.outputs)
    used = {key for call in wiring.calls if not still.issuperset(call.outputs) for key in call.inputs}
    used.update(wiring.outputs)
    makers = {key: call.operation.name for call in wiring.calls for key in call.outputs}
    keys = [key for key in (*wiring.inputs, *makers) if key in still and key in used]
    return Boundary(
        wiring=wiring,
        keys=tuple(keys),
        makers=tuple(makers.get(key, "the input") for key in keys),
        prefix=tuple(wiring.layers(wiring.inputs, keys)),
    )


def _resting(network: Network) -> set[int]:
    """Layers that run as after the training, whatever they would do in it."""
    if network.backbone.trainable_variables:
        return set()
    return {id(layer) for layer in network.backbone._flatten_layers()}  # noqa: SLF001 (no public way)


def _moves(operation: graph.Operation, movable: set[int], resting: set[int]) -> bool:
    if not isinstance(operation, keras.Layer):
        return False
    if any(id(weight) in movable for weight in operation.weights) or getattr(operation, "stateful", False):
        return True
    inner = operation._flatten_layers()  # noqa: SLF001 (no public way)
    return any(draws(layer) and id(layer) not in resting for layer in inner)


def hindrance(prefix: Sequence[graph.Operation]) -> str | None:
    """Why the outputs of these layers cannot stand for them, or `None`."""
    for operation in prefix:
        if getattr(operation, "activity_regularizer", None) is not None:
            return f"layer '{operation.name}' adds a loss of its own for each batch"
    return None
