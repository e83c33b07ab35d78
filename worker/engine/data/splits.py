"""Splits that stay put when a dataset grows.

Every example has a place between 0 and 1: the sha256 of its bytes and the split seed. Places below
`test_fraction` are test, the next `validation_fraction` are validation, the rest is train. The place depends on
nothing else, so an example keeps its split whatever else comes into or leaves the dataset, exact duplicates always
land together, and no example that was once trained on turns up in a later version's test split.

The price: a class gets its share only on average. So within each class the two borders are moved, over as few
examples as possible, until every split has at least half of its share and at least one example. Only the examples
nearest to a moved border can change splits when more data comes; with a hundred examples of a class and the usual
fractions the borders stay where they are in some 98 of 100 classes.

An example whose bytes stand in several classes is placed by its hash alone; the others make up for it where needed.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from app.domain.dataset import SPLITS, DatasetOptions, SplitName
from app.domain.errors import DataError
from worker.engine.data.found import Found, Indices

ORDER: tuple[SplitName, ...] = ("test", "validation", "train")
"""From place 0 to place 1."""


def place(content: bytes, seed: int) -> float:
    """Where an example with these bytes stands between 0 and 1."""
    digest = hashlib.sha256(seed.to_bytes(8, "big") + content).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def assign(
    contents: Sequence[bytes],
    classes: Sequence[str | None],
    *,
    fractions: Mapping[SplitName, float],
    seed: int,
) -> list[SplitName]:
    """The split of every example. Splits with no or zero fraction stay empty; the rest is train.

    DataError names a class that has fewer distinct examples than there are splits to fill.
    """
    places = {content: place(content, seed) for content in contents}
    borders = _borders(fractions)
    chosen = {content: _split_at(where, borders) for content, where in places.items()}
    for name, (own, shared) in _by_class(contents, classes).items():
        own.sort(key=lambda content: (places[content], content))
        sizes = _sizes(name, _count(own, chosen), _count(shared, chosen), fractions)
        splits = chain.from_iterable([split] * size for split, size in zip(ORDER, sizes, strict=True))
        chosen |= dict(zip(own, splits, strict=True))
    return [chosen[content] for content in contents]


def split_up(found: Found, options: DatasetOptions) -> Indices:
    """The examples of train, validation and test, each in the order of their digests.

    What the file itself puts in validation or test stays there; a split that it lacks is carved from the rest.
    """
    chosen: list[SplitName] = [split or "train" for split in found.brought]
    wanted: dict[SplitName, float] = {"test": options.test_fraction, "validation": options.validation_fraction}
    missing = {split: fraction for split, fraction in wanted.items() if split not in chosen}
    pool = [index for index, split in enumerate(chosen) if split == "train"]
    names = _strata(found)
    if not found.labels.several:
        _refuse_untrained(found, chosen, names)
    carved = assign(
        [found.contents[index] for index in pool],
        [names[index] for index in pool],
        fractions=missing,
        seed=options.split_seed,
    )
    for index, split in zip(pool, carved, strict=True):
        chosen[index] = split
    indices = {split: _ordered(found, [i for i, its in enumerate(chosen) if its == split]) for split in SPLITS}
    if found.labels.several:
        _refuse_untrained_labels(found, indices)
    return indices


def _strata(found: Found) -> list[str | None]:
    """What the splits are to have in equal parts: the class of an example, or the rarest of its labels."""
    classes, values = found.labels.classes, found.labels.values
    if classes is None:
        return [None] * len(found.contents)
    if not found.labels.several:
        return [classes[value] for value in values.tolist()]
    rarest = np.where(values > 0, values.sum(axis=0), np.inf).argmin(axis=1)
    labelled = np.asarray(values.any(axis=1)).tolist()
    return [classes[label] if some else None for label, some in zip(rarest.tolist(), labelled, strict=True)]


def _refuse_untrained_labels(found: Found, indices: Indices) -> None:
    for column, name in enumerate(found.labels.classes or ()):
        if not found.labels.values[indices["train"], column].any():
            message = f"No example in the train split has the label '{name}', so it cannot be learned. Add some."
            raise DataError(message)


def _refuse_untrained(found: Found, chosen: Sequence[SplitName], names: Sequence[str | None]) -> None:
    trained = {name for name, split in zip(names, chosen, strict=True) if split == "train"}
    for index, name in enumerate(names):
        if name not in trained:
            message = (
                f"The class '{name}' ('{found.names[index]}') is in the {chosen[index]} split but not in train, so it "
                "cannot be learned. Add examples of it to train or leave it out."
            )
            raise DataError(message)


def _ordered(found: Found, indices: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = found.labels.values
    indices.sort(key=lambda index: (found.stored[index], found.contents[index], labels[index].tobytes()))
    return np.array(indices, np.int64)


def _borders(fractions: Mapping[SplitName, float]) -> list[tuple[float, SplitName]]:
    test = fractions.get("test", 0.0)
    return [(test, "test"), (test + fractions.get("validation", 0.0), "validation")]


def _split_at(where: float, borders: Sequence[tuple[float, SplitName]]) -> SplitName:
    return next((split for border, split in borders if where < border), "train")


def _by_class(
    contents: Sequence[bytes], classes: Sequence[str | None]
) -> dict[str | None, tuple[list[bytes], list[bytes]]]:
    """Distinct contents of each class: those of its own, and those that stand in other classes too."""
    owners: dict[bytes, set[str | None]] = defaultdict(set)
    for content, name in zip(contents, classes, strict=True):
        owners[content].add(name)
    members: dict[str | None, tuple[list[bytes], list[bytes]]] = {name: ([], []) for name in dict.fromkeys(classes)}
    for content, names in owners.items():
        for name in names:
            members[name][len(names) > 1].append(content)
    return members


def _count(members: Sequence[bytes], chosen: Mapping[bytes, SplitName]) -> list[int]:
    counts = Counter(chosen[content] for content in members)
    return [counts[split] for split in ORDER]


def _sizes(name: str | None, own: list[int], shared: list[int], fractions: Mapping[SplitName, float]) -> list[int]:
    """How many of a class's own examples each split gets, given where the hash put them."""
    total = sum(own) + sum(shared)
    shares = [fractions.get(split, 0.0) for split in ORDER[:2]] + [1.0 - sum(fractions.values())]
    halves = [max(1, int(total * share / 2)) if share else 0 for share in shares]
    ones = [min(1, half) for half in halves]
    for least in (halves, ones):
        needed = [max(0, want - there) for want, there in zip(least, shared, strict=True)]
        if sum(needed) <= sum(own):
            return _balanced(own, needed)
    whose = "The dataset" if name is None else f"The class '{name}'"
    torn = f", {sum(shared)} of them in other classes too" if any(shared) else ""
    wanted = ", ".join(split for split in SPLITS if ones[ORDER.index(split)])
    message = (
        f"{whose} has {total} different example{'s' * (total != 1)}{torn}; at least {sum(ones)} are needed, one for "
        f"each of {wanted}. Add examples or bring the splits yourself."
    )
    raise DataError(message)


def _balanced(sizes: list[int], least: list[int]) -> list[int]:
    """Move the two borders between three sizes, as little as possible, until none is below its least."""
    total = sum(sizes)
    first = min(max(sizes[0], least[0]), total - least[1] - least[2])
    second = min(max(sizes[0] + sizes[1], first + least[1]), total - least[2])
    return [first, second - first, total - second]
