r"""Bring the weights of `.keras` files of Keras 2.12 to 2.14 into the layout that Keras 3 reads.

    Keras 2.13                                             Keras 3
    _layer_checkpoint_dependencies/conv2d/vars/0           layers/conv2d/vars/0
    _layer_checkpoint_dependencies/conv2d_2/vars/0         layers/conv2d_1/vars/0

Both number the layers of one class in the model's order; the old one gives a layer with weights two numbers and
uses the first. Windows wrote `\` for the first `/`. So the order within a class tells which is which, and the
shapes are checked when Keras loads the result.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from worker.engine.intake.refusals import refuse

OLD = "_layer_checkpoint_dependencies"
NEW = "layers"
SENTENCE = "Weights were found by the order of the layers, for Keras 2 numbered them in another way."


def is_old(weights: Path) -> bool:
    """Whether a checked weights file has the layout of Keras 2.12 to 2.14."""
    with h5py.File(weights, "r") as file:
        return any(name.replace("\\", "/").split("/")[0] == OLD for name in file)


def rewrite(weights: Path, config: Mapping[str, Any], destination: Path) -> None:
    """Write the same arrays under the names that Keras 3 expects for this (upgraded) model config."""
    with h5py.File(weights, "r") as old, h5py.File(destination, "x") as new:
        members = {name.replace("\\", "/"): member for name, member in _members(old)}
        for name, target in _new_names(list(members), config, ""):
            if isinstance(members[name], h5py.Dataset):
                old.copy(members[name], new, name=target)


def _members(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.HLObject]]:
    for name, member in group.items():
        yield f"{prefix}{name}", member
        if isinstance(member, h5py.Group):
            yield from _members(member, f"{prefix}{name}/")


def _new_names(names: list[str], config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Old and new names of what a model stored; the old names of its members begin with `prefix`."""
    inside = f"{prefix}{OLD}/"
    groups = _in_order({name[len(inside) :].split("/")[0] for name in names if name.startswith(inside)})
    stems = [(snake_case(layer["class_name"]), layer) for layer in config["config"]["layers"]]
    _check_counts(groups, Counter(stem for stem, _ in stems))
    used: Counter[str] = Counter()
    for stem, layer in stems:
        if stem not in groups:
            continue  # nothing was stored for this class; if it has weights, Keras will say so
        number = used[stem]
        used[stem] += 1
        old, new = f"{inside}{groups[stem][number]}", f"{NEW}/{stem}_{number}" if number else f"{NEW}/{stem}"
        own = [name for name in names if name.startswith(f"{old}/")]
        is_model = "layers" in layer["config"]
        renamed = _new_names(own, layer, f"{old}/") if is_model else ((name, name[len(old) + 1 :]) for name in own)
        yield from ((name, f"{new}/{inner}") for name, inner in renamed)


def _in_order(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by class, each class in the order of its numbers."""
    numbered = [(*_stem_and_number(name), name) for name in names]
    ordered: dict[str, list[str]] = {}
    for stem, _, name in sorted(numbered):
        ordered.setdefault(stem, []).append(name)
    return ordered


def _stem_and_number(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if stem and number.isdecimal() else (name, 0)


def _check_counts(groups: Mapping[str, list[str]], counts: Mapping[str, int]) -> None:
    """If only some layers of a class were stored, the order would not tell which ones."""
    for stem, names in groups.items():
        if len(names) != counts.get(stem, 0):
            refuse(
                "corrupt_file",
                f"The file has weights for {len(names)} layers of class '{stem}', and the architecture has "
                f"{counts.get(stem, 0)}. Save the model again with model.save('model.keras').",
            )


def snake_case(name: str) -> str:
    """`MaxPooling2D` as `max_pooling2d`, as Keras forms the names of groups."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()
