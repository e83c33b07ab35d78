"""What is worth knowing about a validated dataset: counts, shapes, duplicates, its digest."""

import hashlib
import json
from collections import Counter, defaultdict

from app.domain.dataset import MAX_LISTED, SPLITS, DatasetInfo, SplitInfo, SplitName
from worker.engine.data.found import Found, Indices

FORMAT = "thaw-dataset-1"
"""Goes into every digest; a change of the stored form changes it."""


def summarize(found: Found, indices: Indices) -> DatasetInfo:
    """The `DatasetInfo` of examples that are split up."""
    groups = _duplicates(found)
    across = _across_splits(groups, indices)
    labels = found.labels
    return DatasetInfo(
        kind=found.kind,
        task=labels.task,
        example_shape=_example_shape(found),
        dtype=found.dtype,
        value_range=found.value_range,
        inputs=found.inputs,
        classes=labels.classes,
        targets=labels.targets,
        splits={split: _split_info(found, indices, split) for split in SPLITS},
        corrupt=found.corrupt,
        corrupt_count=found.corrupt_count,
        duplicates_across_splits=sum(len(group) for group in across),
        duplicates=[[found.names[index] for index in group[:MAX_LISTED]] for group in across[:MAX_LISTED]],
        warnings=[*found.warnings, *labels.warnings, *_warnings(found, groups)],
        digest=_digest(found, indices),
    )


def _example_shape(found: Found) -> list[int | None]:
    """`None` where examples differ; grayscale pictures among colour ones count as colour."""
    sizes = [set(found.shapes[:, axis].tolist()) for axis in range(found.shapes.shape[1])]
    shape: list[int | None] = [next(iter(size)) if len(size) == 1 else None for size in sizes]
    if found.kind == "images":
        shape[-1] = max(sizes[-1])
    return shape


def _split_info(found: Found, indices: Indices, split: SplitName) -> SplitInfo:
    classes = found.labels.classes
    if classes is None:
        return SplitInfo(examples=len(indices[split]))
    values = found.labels.values[indices[split]]
    if found.labels.several:
        sums = values.sum(axis=0, dtype="float64").tolist()
        by_name = {name: int(count) for name, count in zip(classes, sums, strict=True)}
        return SplitInfo(examples=len(values), class_counts=by_name)
    counts = Counter(values.tolist())
    return SplitInfo(
        examples=len(indices[split]), class_counts={name: counts[index] for index, name in enumerate(classes)}
    )


def _duplicates(found: Found) -> list[list[int]]:
    """Groups of examples with the same bytes, in the order of the file."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, content in enumerate(found.contents):
        groups[content].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _across_splits(groups: list[list[int]], indices: Indices) -> list[list[int]]:
    split_of = {index: split for split, chosen in indices.items() for index in chosen.tolist()}
    return [group for group in groups if len({split_of[index] for index in group}) > 1]


def _warnings(found: Found, groups: list[list[int]]) -> list[str]:
    warnings = []
    if groups:
        copies = sum(len(group) - 1 for group in groups)
        first = " and ".join(f"'{found.names[index]}'" for index in groups[0][:2])
        warnings.append(f"{copies} examples are exact copies of others, for instance {first}.")
    if found.labels.classes is not None:
        values = found.labels.values
        torn = [group for group in groups if len({values[index].tobytes() for index in group}) > 1]
        if torn:
            first = " and ".join(f"'{found.names[index]}'" for index in torn[0][:2])
            what = "have different labels" if found.labels.several else "stand in several classes"
            warnings.append(f"{len(torn)} examples {what} with the same bytes, for instance {first}.")
    return warnings


def _digest(found: Found, indices: Indices) -> str:
    """sha256 over what the dataset means: types, classes, and for each split its examples with their labels."""
    labels = found.labels
    head: list[object] = [FORMAT, labels.task, labels.classes, _example_shape(found), found.dtype]
    head += [[each.name, each.example_shape, each.dtype] for each in found.inputs]
    digest = hashlib.sha256(json.dumps(head).encode())
    for split in SPLITS:
        digest.update(f"{split} {len(indices[split])}".encode())
        for index in indices[split].tolist():
            digest.update(found.stored[index] + labels.values[index].tobytes())
    return digest.hexdigest()
