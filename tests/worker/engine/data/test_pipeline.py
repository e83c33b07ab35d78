"""Batches: every example once, in an order that depends on seed and epoch alone."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.engine.data import pipeline
from worker.engine.data.pipeline import epoch_order
from worker.engine.data.preprocess import Preprocess
from worker.engine.data.stored import Split, open_dataset

Build = Callable[..., Path]
Check = Callable[..., Any]

PLAIN = Preprocess((2,), "float32", (2,))


@pytest.fixture
def train(make_npz: Build, check: Check) -> Split:
    x = np.stack([np.arange(100), -np.arange(100)], axis=1).astype(np.float32)
    return open_dataset(check(make_npz(x=x, y=np.arange(100) % 2))[2]).split("train")


def order(split: Split, shuffle_seed: tuple[int, int] | None, batch_size: int = 16) -> list[float]:
    batches = split.batches(batch_size, preprocess=PLAIN, shuffle_seed=shuffle_seed)
    return [float(row[0]) for x, _ in batches for row in x]


def test_every_example_comes_once_with_its_label_and_the_last_batch_may_be_smaller(train: Split) -> None:
    batches = list(train.batches(16, preprocess=PLAIN, shuffle_seed=(1, 2)))
    assert [len(x) for x, _ in batches] == [16] * (len(train) // 16) + [len(train) % 16]
    assert len(train.batches(16, preprocess=PLAIN)) == len(batches)
    assert len({float(row[0]) for x, _ in batches for row in x}) == len(train)
    assert all((x[:, 0].astype(int) % 2 == y).all() for x, y in batches)
    assert batches[0][0].dtype == np.float32
    assert batches[0][1].dtype == np.int32


def test_the_order_is_a_function_of_seed_and_epoch(train: Split) -> None:
    assert order(train, (1, 2)) == order(train, (1, 2), batch_size=7)
    assert len({tuple(order(train, pair)) for pair in [(1, 2), (1, 3), (2, 2), (2, 1)]}) == 4
    assert order(train, None) == [float(train.example(index)[0]) for index in range(len(train))]


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    # Written down once; Philox' words are fixed by numpy's NEP 19.
    assert epoch_order(12, (42, 0)).tolist() == [0, 1, 4, 10, 2, 6, 8, 5, 11, 9, 7, 3]
    assert epoch_order(5, None).tolist() == [0, 1, 2, 3, 4]


def test_batches_can_be_iterated_over_again(train: Split) -> None:
    batches = train.batches(16, preprocess=PLAIN, shuffle_seed=(1, 2))
    assert [x.tolist() for x, _ in batches] == [x.tolist() for x, _ in batches]


def test_threads_change_nothing_and_end_with_the_iteration(train: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = order(train, (5, 6))
    monkeypatch.setattr(pipeline, "THREADS_PAY_FROM_BYTES", 1)
    assert order(train, (5, 6)) == inline
    assert order(train, (5, 6), batch_size=1) == inline
    iterator = iter(train.batches(1, preprocess=PLAIN, shuffle_seed=(5, 6)))
    next(iterator)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    iterator.close()  # type: ignore[attr-defined]  # a generator where threads are used
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_an_error_in_a_thread_reaches_whoever_iterates(train: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "THREADS_PAY_FROM_BYTES", 1)
    with pytest.raises(ValueError, match="reshape"):
        list(train.batches(4, preprocess=Preprocess((2,), "float32", (3,))))


@pytest.mark.tensorflow
def test_pictures_of_any_size_become_batches_of_one_size(
    make_zip: Build, check: Check, picture: Callable[..., bytes]
) -> None:
    files = {
        f"{name}/{seed}.png": picture(seed + 100 * (name == "dog"), size=(20 + seed, 30 - seed))
        for name in ("cat", "dog")
        for seed in range(12)
    }
    train = open_dataset(check(make_zip(files))[2]).split("train")
    preprocess = Preprocess((None, None, 3), "uint8", (16, 24, 3), "zero_to_one", image_size=(16, 24))
    batches = list(train.batches(5, preprocess=preprocess, shuffle_seed=(0, 0)))
    x = np.concatenate([x for x, _ in batches])
    assert x.shape == (len(train), 16, 24, 3)
    positions = epoch_order(len(train), (0, 0))
    for row, position in zip(x, positions, strict=True):
        np.testing.assert_array_equal(row, preprocess.apply([train.example(int(position))])[0])
