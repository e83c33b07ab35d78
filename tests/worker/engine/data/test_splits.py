"""Splits by hash: they stay put, keep duplicates together and give every class its share."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.dataset import SplitName
from app.domain.errors import DataError
from worker.engine.data.splits import _balanced, assign, place

FRACTIONS: dict[SplitName, float] = {"test": 0.15, "validation": 0.15}
CLASSES = ("a", "b", "c")


def content(number: int) -> bytes:
    return number.to_bytes(32, "big")


def splits(numbers: Sequence[int], classes: Sequence[str | None], seed: int = 0) -> list[SplitName]:
    return assign([content(number) for number in numbers], classes, fractions=FRACTIONS, seed=seed)


# Examples of three classes, some of them twice or in two classes.
examples = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(CLASSES)), max_size=120)
enough = [(1000 + 10 * index + number, name) for index, name in enumerate(CLASSES) for number in range(5)]


@given(examples, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_exact_duplicates_land_in_the_same_split(drawn: list[tuple[int, str]], seed: int) -> None:
    drawn = drawn + enough
    chosen = splits([number for number, _ in drawn], [name for _, name in drawn], seed)
    of_number: dict[int, set[SplitName]] = {}
    for (number, _), split in zip(drawn, chosen, strict=True):
        of_number.setdefault(number, set()).add(split)
    assert all(len(where) == 1 for where in of_number.values())


@given(examples, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_class_has_every_split_and_at_least_half_its_share(drawn: list[tuple[int, str]], seed: int) -> None:
    drawn = drawn + enough
    chosen = splits([number for number, _ in drawn], [name for _, name in drawn], seed)
    owners: dict[int, set[str]] = {}
    for number, name in drawn:
        owners.setdefault(number, set()).add(name)
    for name in CLASSES:
        distinct = {number: split for (number, its), split in zip(drawn, chosen, strict=True) if its == name}
        counts = Counter(distinct.values())
        assert set(counts) == {"train", "validation", "test"}
        if all(len(owners[number]) == 1 for number in distinct):
            assert counts["test"] >= int(len(distinct) * 0.15 / 2)
            assert counts["validation"] >= int(len(distinct) * 0.15 / 2)
            assert counts["train"] >= int(len(distinct) * 0.7 / 2)


@given(examples, st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_examples_does_not_matter(
    drawn: list[tuple[int, str]], seed: int, shuffler: random.Random
) -> None:
    drawn = drawn + enough
    shuffled = list(drawn)
    shuffler.shuffle(shuffled)
    first = dict(zip(drawn, splits([n for n, _ in drawn], [c for _, c in drawn], seed), strict=True))
    second = dict(zip(shuffled, splits([n for n, _ in shuffled], [c for _, c in shuffled], seed), strict=True))
    assert first == second


@given(st.integers(0, 1000), st.integers(100, 300), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_examples_keep_their_split_when_the_dataset_grows(seed: int, before: int, more: int) -> None:
    """Only examples next to a border that had to be moved, before or after, may change splits."""
    numbers = list(range(before + more))
    names: list[str | None] = [CLASSES[number % 2] for number in numbers]
    small, large = splits(numbers[:before], names[:before], seed), splits(numbers, names, seed)
    places = [place(content(number), seed) for number in numbers]
    by_place = ["test" if where < 0.15 else "validation" if where < 0.3 else "train" for where in places]
    for index in range(before):
        assert small[index] == large[index] or by_place[index] in (small[index], large[index])
    moved = sum(a != b for a, b in zip(small, by_place, strict=False))
    assert moved <= 0.1 * before
    if small == by_place[:before] and large == by_place:
        assert small == large[:before]


def test_borders_rarely_move_for_classes_of_a_hundred() -> None:
    moved = 0
    for seed in range(300):
        chosen = splits(list(range(100)), [None] * 100, seed)
        places = [place(content(number), seed) for number in range(100)]
        moved += chosen != ["test" if where < 0.15 else "validation" if where < 0.3 else "train" for where in places]
    assert moved / 300 < 0.05


def test_shares_are_met_on_average() -> None:
    counts = Counter(splits(list(range(20_000)), [None] * 20_000))
    # Four standard deviations of a binomial count.
    assert abs(counts["test"] - 3000) < 4 * (20_000 * 0.15 * 0.85) ** 0.5
    assert abs(counts["validation"] - 3000) < 4 * (20_000 * 0.15 * 0.85) ** 0.5


def test_another_seed_gives_other_splits() -> None:
    numbers = list(range(200))
    assert splits(numbers, [None] * 200, seed=0) != splits(numbers, [None] * 200, seed=1)


def test_three_examples_of_a_class_fill_three_splits() -> None:
    for seed in range(50):
        assert Counter(splits([1, 2, 3], ["a"] * 3, seed)) == {"train": 1, "validation": 1, "test": 1}


def test_a_class_with_fewer_different_examples_than_splits_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'b' has 2 different examples; at least 3.*train, validation, test"):
        splits([1, 2, 3, 4, 5, 5], ["a"] * 3 + ["b"] * 3)


def test_classes_that_share_most_of_their_examples_still_get_every_split() -> None:
    numbers = list(range(40)) * 2 + [100, 101]
    names = ["a"] * 40 + ["b"] * 40 + ["a", "b"]
    chosen = splits(numbers, names)
    assert all({split for split, its in zip(chosen, names, strict=True) if its == name} >= {"test"} for name in "ab")
    assert chosen[:40] == chosen[40:80]


def test_classes_that_share_all_of_too_few_examples_are_refused() -> None:
    with pytest.raises(DataError, match="2 different examples, 2 of them in other classes too"):
        splits([1, 2, 1, 2], ["a", "a", "b", "b"])


def test_only_missing_splits_are_carved() -> None:
    contents = [content(number) for number in range(100)]
    assert set(assign(contents, [None] * 100, fractions={"validation": 0.2}, seed=0)) == {"train", "validation"}
    assert set(assign(contents, [None] * 100, fractions={}, seed=0)) == {"train"}


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=3),
    st.lists(st.integers(0, 12), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_borders_move_no_further_than_needed(sizes: list[int], least: list[int]) -> None:
    if sum(least) > sum(sizes):
        return
    balanced = _balanced(sizes, least)
    assert sum(balanced) == sum(sizes)
    assert all(size >= minimum for size, minimum in zip(balanced, least, strict=True))
    if all(size >= minimum for size, minimum in zip(sizes, least, strict=True)):
        assert balanced == sizes
