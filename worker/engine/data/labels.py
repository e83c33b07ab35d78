"""What labels mean: classes or numbers, told from their type, shape and values.

    whole numbers, bools, strings  (n,) or (n, 1)   classes; with `task: regression` numbers
    exactly one 1 in each row      (n, k)           classes, one column each
    whole numbers or bools 0 and 1 (n, k)           any number of labels at once, one column each: `multi_label`
    other floats                   (n,) or (n, t)   regression

Two classes are `binary`, more `single_label`. `task` may overrule only where that makes sense.
"""

import numpy as np

from app.domain.dataset import DatasetOptions
from app.domain.errors import DataError
from app.domain.spec import Task
from worker.engine.data.found import Array, Labels


def class_task(classes: list[str], wanted: Task | None) -> Task:
    """`binary` or `single_label`; DataError if that is not what is wanted, or there is only one class."""
    if len(classes) < 2:
        message = f"The dataset has only one class, '{classes[0]}'; at least two are needed to tell them apart."
        raise DataError(message)
    if wanted == "regression":
        message = f"task 'regression' needs numbers as labels; this dataset has {len(classes)} classes."
        raise DataError(message, param="task")
    if wanted == "multi_label":
        message = (
            f"task 'multi_label' needs labels of shape (n, k), 0 or 1 for each of k labels; this dataset has one of "
            f"{len(classes)} classes for each example."
        )
        raise DataError(message, param="task")
    if wanted == "binary" and len(classes) > 2:
        message = f"task 'binary' needs exactly two classes; this dataset has {len(classes)}. Use 'single_label'."
        raise DataError(message, param="task")
    return wanted or ("binary" if len(classes) == 2 else "single_label")


def read_labels(y: Array, options: DatasetOptions) -> Labels:
    """The meaning of all labels of an npz file, splits joined. `y` is `(n,)` or `(n, k)`, neither object nor empty."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim > 2:
        message = f"Labels must have the shape (n,) or (n, k); received {y.shape}."
        raise DataError(message)
    if y.dtype.kind not in "biufUS":
        message = f"Labels must be whole numbers, floats or strings; received the type {y.dtype}."
        raise DataError(message)
    _refuse_not_finite(y)
    if options.task == "regression":
        return _numbers(y, options)
    if y.ndim == 2:
        return _columns(y, options)
    if y.dtype.kind == "f" and not np.array_equal(y, np.rint(y)):
        return _numbers(y, options)
    return _classes(y, options)


def _refuse_not_finite(y: Array) -> None:
    if y.dtype.kind != "f" or np.isfinite(y).all():
        return
    wrong = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
    message = f"{len(wrong)} labels are NaN or infinite, the first at index {wrong[0]}. Remove those examples."
    raise DataError(message)


# === Regression ===


def _numbers(y: Array, options: DatasetOptions) -> Labels:
    if options.class_names or options.task not in (None, "regression"):
        asked = "class_names are given" if options.class_names else f"task is '{options.task}'"
        message = (
            f"{asked.capitalize()}, so labels must be classes: whole numbers or strings of shape (n,), or one 1 in "
            f"each row of shape (n, k); received {y.dtype} of shape {y.shape}."
        )
        raise DataError(message, param="class_names" if options.class_names else "task")
    if y.dtype.kind in "US":
        message = f"task 'regression' needs numbers as labels; received strings such as '{y.flat[0]}'."
        raise DataError(message, param="task")
    if y.ndim == 2 and y.dtype.kind != "f" and options.task is None:
        message = (
            f"Labels of shape {y.shape} and type {y.dtype} are neither one class for each example nor exactly one 1 "
            "in each row, nor 0 and 1 alone for several labels at once. For numbers to predict set task 'regression'."
        )
        raise DataError(message)
    return Labels("regression", _as_float32(y).reshape(len(y), -1), None)


def _as_float32(y: Array) -> Array:
    if y.dtype.kind == "f" and np.abs(y).max() > np.finfo(np.float32).max:
        message = f"Labels must fit in float32; received {np.abs(y).max():g}."
        raise DataError(message)
    return y.astype(np.float32)


# === Classes ===


def _columns(y: Array, options: DatasetOptions) -> Labels:
    """A table of labels `(n, k)`."""
    switches = y.dtype.kind in "biuf" and bool(((y == 0) | (y == 1)).all())
    if options.task == "multi_label" or (switches and y.dtype.kind != "f" and options.task is None):
        one_each = switches and options.task is None and bool((y.sum(axis=1) == 1).all())
        return _one_hot(y, options) if one_each else _several(y, options, switches=switches)
    if switches and (y.sum(axis=1) == 1).all():
        return _one_hot(y, options)
    return _numbers(y, options)


def _several(y: Array, options: DatasetOptions, *, switches: bool) -> Labels:
    """Any number of labels at once, kept as float32, which is what their loss takes."""
    if not switches:
        message = f"task 'multi_label' needs 0 or 1 in each column; received {y.dtype} of shape {y.shape}."
        raise DataError(message, param="task")
    names = _column_names(y, options)
    empty = [name for name, there in zip(names, np.asarray(y.any(axis=0)).tolist(), strict=True) if not there]
    if empty:
        message = f"No example has the label '{empty[0]}' ({len(empty)} such labels). Leave it out or add examples."
        raise DataError(message)
    return Labels("multi_label", y.astype(np.float32), names)


def _column_names(y: Array, options: DatasetOptions) -> list[str]:
    count = y.shape[1]
    names = options.class_names or [str(column) for column in range(count)]
    if len(names) != count:
        message = f"class_names has {len(names)} names; the labels have {count} columns."
        raise DataError(message, param="class_names")
    return list(names)


def _one_hot(y: Array, options: DatasetOptions) -> Labels:
    count, names = y.shape[1], _column_names(y, options)
    values = y.argmax(axis=1).astype(np.int32)
    _refuse_empty(values, names)
    note = f"The labels hold exactly one 1 in each of {count} columns; they were taken as {count} classes."
    return Labels(class_task(names, options.task), values, names, [note])


def _classes(y: Array, options: DatasetOptions) -> Labels:
    if options.class_names:
        return _named_classes(y, options.class_names, options)
    distinct, values = np.unique(y, return_inverse=True)
    if len(distinct) > len(y) / 2 and len(y) > 2:
        advice = "Add examples." if y.dtype.kind in "US" else "For numbers to predict set task to 'regression'."
        message = (
            f"The labels have {len(distinct)} different values in {len(y)} examples, too many to be classes. {advice}"
        )
        raise DataError(message, param="task")
    names = [_class_name(value) for value in distinct.tolist()]
    return Labels(class_task(names, options.task), values.astype(np.int32), names)


def _class_name(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) else str(value)


def _named_classes(y: Array, names: list[str], options: DatasetOptions) -> Labels:
    if y.dtype.kind in "US":
        allowed = {name: index for index, name in enumerate(names)}
        values = np.array([allowed.get(_class_name(value), -1) for value in y.tolist()])
        outside = values < 0
        described = f"class_names are {', '.join(names[:20])}"
    else:
        values, outside = y, (y < 0) | (y >= len(names))
        described = f"class_names has {len(names)} names, so labels are 0 to {len(names) - 1}"
    if outside.any():
        first = int(outside.argmax())
        message = (
            f"Label {_class_name(y[first].item())} (example {first}) is none of the classes: {described}. "
            f"{int(outside.sum())} examples have such labels."
        )
        raise DataError(message, param="class_names")
    values = values.astype(np.int32)
    _refuse_empty(values, names)
    return Labels(class_task(names, options.task), values, list(names))


def _refuse_empty(values: Array, names: list[str]) -> None:
    counts = np.bincount(values, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        message = f"The class '{empty[0]}' has no examples ({len(empty)} such classes). Leave it out or add examples."
        raise DataError(message)
