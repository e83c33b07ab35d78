"""Which array of an npz file is what: examples or labels, of which split, for which input of the model.

x, y                                            one input, no splits
x_train, y_train, x_test, y_test                one input, splits
x__left, x__right, y                            two inputs, no splits
x_train__left, x_train__right, y_train, …       two inputs, splits
"""

from collections.abc import Sequence

from app.domain.dataset import ArrayInput, SplitName
from app.domain.errors import DataError
from worker.engine.data.layout import SPLIT_FOLDERS
from worker.engine.data.npy import INPUT_MARK, ROLE, Header


def splits(headers: Sequence[Header]) -> dict[str, SplitName | None]:
    """The split of every x and y array by its name; `None` where the file has no splits."""
    names = [header.name for header in headers]
    xs = [name for name in names if ROLE.match(name) and name[0] == "x"]
    if not xs:
        message = (
            f"Expected arrays named x and y, or x_train and y_train, or for several inputs x{INPUT_MARK}left, "
            f"x{INPUT_MARK}right and y; the file holds: {', '.join(names[:20])}."
        )
        raise DataError(message)
    heads = list(dict.fromkeys(_head(name) for name in xs))
    roles: dict[str, SplitName | None] = {}
    for name in xs:
        if partner(name) not in names:
            message = f"The array '{name}' has no labels: expected an array '{partner(name)}' beside it."
            raise DataError(message)
        roles[name] = roles[partner(name)] = _split(_head(name), alone=len(heads) == 1)
    _check_splits([roles[partner(head)] for head in heads], heads)
    _check_inputs(xs, heads)
    return roles


def inputs(headers: Sequence[Header]) -> list[ArrayInput]:
    """What is stored for each input, in the order of their names; the name is empty where there is one.

    Value ranges are not known yet. DataError where the arrays of an input differ in type or shape.
    """
    xs = [header for header in headers if header.name[0] == "x"]
    names = sorted({input_of(header.name) for header in xs})
    return [_input(name, [header for header in xs if input_of(header.name) == name]) for name in names]


def input_of(name: str) -> str:
    """The input of the model that an x array is for; empty if it names none."""
    return name.partition(INPUT_MARK)[2]


def partner(name: str) -> str:
    """The labels of an x array."""
    return "y" + _head(name)[1:]


def _head(name: str) -> str:
    return name.partition(INPUT_MARK)[0]


def _split(head: str, *, alone: bool) -> SplitName | None:
    if len(head) > 1:
        return SPLIT_FOLDERS[head[2:]]
    return None if alone else "train"


def _check_splits(splits: Sequence[SplitName | None], names: Sequence[str]) -> None:
    if len(set(splits)) < len(splits):
        message = f"Several arrays claim the same split: {', '.join(names)}. Keep one for each split."
        raise DataError(message)
    if not {"train", None} & set(splits):
        message = f"There is nothing to learn from: expected x_train or x beside {', '.join(names)}."
        raise DataError(message)


def _check_inputs(xs: Sequence[str], heads: Sequence[str]) -> None:
    """Every input has an array for every split, all in one order: so that rows of several files belong together."""
    if not all(map(input_of, xs)) and any(map(input_of, xs)):
        named = ", ".join(x for x in xs if input_of(x))
        message = f"'{heads[0]}' needs the name of an input too: beside it there are {named}."
        raise DataError(message)
    by_input = {name: [_head(x) for x in xs if input_of(x) == name] for name in dict.fromkeys(map(input_of, xs))}
    if any(its != list(heads) for its in by_input.values()):
        listed = "; ".join(f"'{name}' has {', '.join(its)}" for name, its in by_input.items())
        message = (
            "Every input of the model needs an array for each split, and all inputs in the same order of splits; "
            f"received {listed}. Save them as x_train{INPUT_MARK}left, x_train{INPUT_MARK}right, "
            f"x_test{INPUT_MARK}left, x_test{INPUT_MARK}right."
        )
        raise DataError(message)


def _input(name: str, headers: Sequence[Header]) -> ArrayInput:
    return ArrayInput(name=name, example_shape=_shape(headers), dtype=_stored_dtype(headers), value_range=(0, 0))


def _stored_dtype(headers: Sequence[Header]) -> str:
    found = {header.name: _stored_as(header) for header in headers}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{header.name}: {header.dtype}" for header in headers)
        message = f"The arrays of all splits must have the same type, or they mean different things; received {listed}."
        raise DataError(message)
    return next(iter(found.values()))


def _stored_as(header: Header) -> str:
    if header.dtype.kind == "f":
        return "float32"
    if header.dtype.kind == "b":
        return "uint8"
    if header.dtype.kind in "iu":
        return header.dtype.newbyteorder("=").name
    message = f"The array '{header.name}' has the type {header.dtype}; expected numbers (floats, integers or bools)."
    raise DataError(message)


def _shape(headers: Sequence[Header]) -> list[int]:
    shapes = {header.name: header.shape[1:] for header in headers}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        message = f"The examples of all splits must have the same shape; received {listed}."
        raise DataError(message)
    return list(next(iter(shapes.values()))) or [1]
