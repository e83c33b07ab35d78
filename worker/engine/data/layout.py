"""Which class and which split an image belongs to, told from its path.

    [wrapping/][train|validation|test/]class/[…/]image.jpg

One folder around everything is looked through. Folders named for splits on top count as splits if class
folders stand in them; the classes are the folders' names, sorted.
"""

from collections.abc import Collection, Sequence

import numpy as np

from app.domain.dataset import DatasetOptions, SplitName
from app.domain.errors import DataError
from worker.engine.data.found import Labels
from worker.engine.data.labels import class_task

Parts = tuple[str, ...]

SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(folder: str) -> SplitName | None:
    """The split that a folder is named for."""
    return SPLIT_FOLDERS.get(folder.lower())


def read_layout(
    paths: Sequence[Parts], folders: Collection[Parts], options: DatasetOptions
) -> tuple[list[SplitName | None], Labels]:
    """The split (`None`: the archive has none) and the label of every image."""
    paths, folders = _unwrap(paths, folders)
    brought: list[SplitName | None] = [None] * len(paths)
    if _has_split_folders(paths):
        brought = [split_of(path[0]) for path in paths]
        folders = {folder[1:] for folder in folders}
        paths = [_below_split(path) for path in paths]
    classes = _classes(paths, folders, options)
    number = {name: index for index, name in enumerate(classes)}
    values = np.array([number[path[0]] for path in paths], np.int32)
    return brought, Labels(class_task(classes, options.task), values, classes)


def _unwrap(paths: Sequence[Parts], folders: Collection[Parts]) -> tuple[Sequence[Parts], Collection[Parts]]:
    tops = {path[0] for path in paths}
    wrapped = len(tops) == 1 and all(len(path) >= 3 for path in paths) and not split_of(next(iter(tops)))
    if not wrapped:
        return paths, folders
    return [path[1:] for path in paths], {folder[1:] for folder in folders if folder[0] in tops}


def _has_split_folders(paths: Sequence[Parts]) -> bool:
    splits = sorted({path[0] for path in paths if len(path) >= 3 and split_of(path[0])})
    others = sorted({path[0] for path in paths if not split_of(path[0])})
    if not splits or (others and len(splits) == 1):
        return False
    if others:
        message = (
            f"The archive has folders for splits on top ({', '.join(splits)}) and '{others[0]}' beside them; "
            "expected either train, validation and test alone, or class folders alone."
        )
        raise DataError(message)
    if not any(split_of(folder) == "train" for folder in splits):
        message = f"The archive has the split folders {', '.join(splits)} but no train folder to learn from."
        raise DataError(message)
    return True


def _below_split(path: Parts) -> Parts:
    if len(path) < 3:
        message = f"'{'/'.join(path)}' stands in a split's folder but in no class folder; expected split/class/image."
        raise DataError(message)
    return path[1:]


def _classes(paths: Sequence[Parts], folders: Collection[Parts], options: DatasetOptions) -> list[str]:
    outside = next((path for path in paths if len(path) < 2), None)
    if outside:
        message = (
            f"'{outside[0]}' stands outside any class folder; expected one folder for each class: class/image.jpg."
        )
        raise DataError(message)
    filled = {path[0] for path in paths}
    empty = sorted({folder[0] for folder in folders if folder} - filled)
    if empty:
        message = f"The class folder '{empty[0]}' holds no readable image. Fill it or leave it out."
        raise DataError(message)
    return _ordered(filled, options.class_names)


def _ordered(filled: Collection[str], wanted: list[str] | None) -> list[str]:
    if wanted is None:
        return sorted(filled)
    if set(wanted) != set(filled) or len(wanted) != len(filled):
        message = (
            f"class_names must name the class folders {sorted(filled)}, each once; received {wanted}. "
            "Leave class_names out to take the folders' names."
        )
        raise DataError(message, param="class_names")
    return list(wanted)
