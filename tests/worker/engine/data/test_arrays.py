"""npz files: read in pieces, checked before anything is allocated, never unpickled."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import DataError
from worker.engine.data import arrays
from worker.engine.data.arrays import RowNames
from worker.engine.data.found import Array
from worker.engine.data.stored import open_dataset

Build = Callable[..., Path]
Check = Callable[..., Any]

Y = np.arange(40) % 2


def examples(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).integers(0, 100, (40, *shape)).astype(dtype)


def stored_rows(folder: Path) -> set[bytes]:
    dataset = open_dataset(folder)
    splits = [dataset.split(name) for name in dataset.info.splits]
    return {split.example(index).tobytes() for split in splits for index in range(len(split))}


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("float16", "float32"),
        ("uint8", "uint8"),
        ("bool", "uint8"),
        ("int64", "int64"),
        (">i2", "int16"),
        (">f8", "float32"),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_come_back_as_they_were_saved(
    *, dtype: str, stored: str, order: Any, make_npz: Build, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 100)  # so that a file takes many pieces
    x = np.asarray((examples(3, 5) > 50).astype(dtype) if dtype == "bool" else examples(3, 5, dtype=dtype), order=order)
    info, _, folder = check(make_npz(x=x, y=Y))
    assert info.dtype == stored
    assert info.example_shape == [3, 5]
    assert info.value_range == (float(x.min()), float(x.max()))
    assert stored_rows(folder) == {row.tobytes() for row in np.ascontiguousarray(x.astype(stored))}


def test_labels_stay_with_their_examples(make_npz: Build, check: Check) -> None:
    x = np.arange(40, dtype=np.float32)
    _, _, folder = check(make_npz(y=Y, x=x))
    train = open_dataset(folder).split("train")
    assert train.example(0).shape == (1,)
    assert [int(train.example(index)[0]) % 2 for index in range(len(train))] == train.labels.tolist()


@pytest.mark.parametrize("upper", [False, True])
def test_splits_of_the_file_are_kept_and_missing_ones_carved_from_train(
    upper: bool, make_npz: Build, check: Check
) -> None:
    x = np.arange(40, dtype=np.float32)
    named = {"x_train": x[:30], "y_train": Y[:30], "x_test": x[30:], "y_test": Y[30:]}
    info, _, folder = check(make_npz(**{name.capitalize() if upper else name: value for name, value in named.items()}))
    dataset = open_dataset(folder)
    test = dataset.split("test")
    assert sorted(float(test.example(index)[0]) for index in range(len(test))) == list(range(30, 40))
    assert info.splits["train"].examples + info.splits["validation"].examples == 30
    assert info.splits["validation"].examples >= 2


def test_all_three_splits_of_a_file_are_kept(make_npz: Build, check: Check) -> None:
    x = np.arange(40, dtype=np.float32)
    info, _, _ = check(
        make_npz(x_train=x[:20], y_train=Y[:20], x_val=x[20:30], y_val=Y[20:30], x_test=x[30:], y_test=Y[30:])
    )
    assert {name: split.examples for name, split in info.splits.items()} == {"train": 20, "validation": 10, "test": 10}


@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_to_predict_keep_their_values(order: Any, make_npz: Build, check: Check) -> None:
    x = np.arange(40, dtype=np.float32)
    info, _, folder = check(make_npz(x=x, y=np.asarray(np.stack([x / 3, -x], axis=1), order=order)))
    train = open_dataset(folder).split("train")
    assert (info.task, info.targets, info.classes) == ("regression", 2, None)
    assert train.labels.dtype == np.float32
    np.testing.assert_array_equal(train.labels[:, 1], [-train.example(index)[0] for index in range(len(train))])


def test_other_arrays_are_left_out_and_that_is_said(make_npz: Build, check: Check) -> None:
    info, _, _ = check(make_npz(x=examples(2), y=Y, ids=np.arange(40)))
    assert info.warnings[0] == "Arrays other than x and y were left out: ids."


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"data": examples(2), "y": Y}, "named x and y.*the file holds: data, y"),
        ({"x": examples(2)}, "'x' has no labels: expected an array 'y'"),
        ({"x_train": examples(2), "y_train": Y, "x_test": examples(2)}, "expected an array 'y_test'"),
        ({"x_test": examples(2), "y_test": Y}, "nothing to learn from"),
        ({"x_val": examples(2), "y_val": Y, "x_valid": examples(2), "y_valid": Y}, "claim the same split"),
        ({"x": examples(2), "y": Y[:39]}, "'x' has 40 examples and 'y' 39 labels"),
        ({"x": examples(2)[:0], "y": Y[:0]}, r"'x' is empty: its shape is \(0, 2\)"),
        ({"x": np.float32(1), "y": np.int64(1)}, r"'x' is empty: its shape is \(\)"),
        ({"x": examples(2).astype("U3"), "y": Y}, "'x' has the type <U3"),
        ({"x": examples(2).astype(complex), "y": Y}, "'x' has the type complex128"),
        (
            {"x_train": examples(2), "y_train": Y, "x_test": examples(2, dtype="uint8"), "y_test": Y},
            "same type.*x_train: float32, x_test: uint8",
        ),
        ({"x_train": examples(2), "y_train": Y, "x_test": examples(3), "y_test": Y}, r"same shape.*x_test: \(3,\)"),
        ({"x_train": examples(2), "y_train": Y, "x_test": examples(2), "y_test": Y.astype("U1")}, "of one kind"),
        ({"x_train": examples(2), "y_train": Y, "x_test": examples(2), "y_test": Y + 5}, "class '5'.*not in train"),
    ],
)
def test_arrays_that_do_not_make_a_dataset_are_refused(
    named: dict[str, Array], says: str, make_npz: Build, check: Check
) -> None:
    with pytest.raises(DataError, match=says):
        check(make_npz(**named))


def test_examples_that_are_not_finite_are_counted_and_the_first_named(make_npz: Build, check: Check) -> None:
    x = examples(2, 2).astype(np.float64)
    x[7, 1, 1], x[9, 0, 0], x[20] = np.nan, np.inf, 1e300
    with pytest.raises(DataError, match=r"3 examples of 'x' hold NaN.*first at index 7"):
        check(make_npz(x=x, y=Y))


# === Hostile files ===


class Evil:
    """Leaves a trace when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["x", "y", "extra"])
def test_pickled_objects_are_refused_and_nothing_is_executed(
    name: str, make_npz: Build, check: Check, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(DataError, match=f"'{name}' holds Python objects"):
        check(make_npz(**{"x": examples(2), "y": Y} | {name: np.array([Evil(trace)] * 40, object)}))
    assert not trace.exists()


def test_a_pickle_in_place_of_an_array_is_refused(make_zip: Build, check: Check, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(DataError, match="'x' has no npy header"):
        check(make_zip({"x.npy": pickle.dumps(Evil(trace)), "y.npy": b""}))
    assert not trace.exists()


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def saved(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,)}"),
            r"'x' says it has the shape \(100000000000,\) of float32, 400,000,000,000 bytes, but the file holds 0",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -2)}", bytes(16)), "'x' "),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (40, 2)}", bytes(100)), "but the file holds 100"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (40,)}", bytes(320)), "Python objects"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (40,)}", bytes(160)), "'x' has the type"),
        (npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (40,)}"), "no npy header"),
        (npy("__import__('os').system('true')"), "no npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "it is 4,294,967,295 bytes long"),
        (b"\x93NUMPY\x03\x00\x10\x00\x00\x00", "version 1 or 2"),
        (b"text", "version 1 or 2"),
    ],
    ids=["400 GB", "negative", "too few bytes", "objects", "structured", "type", "code", "long", "version", "text"],
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(
    member: bytes, says: str, make_zip: Build, check: Check
) -> None:
    with pytest.raises(DataError, match=says):
        check(make_zip({"x.npy": member, "y.npy": saved(Y)}))


def test_a_damaged_array_is_named(make_npz: Build, check: Check) -> None:
    path = make_npz(x=examples(2000), y=Y)  # not compressed
    data = bytearray(path.read_bytes())
    data[200_000] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataError, match="'x' is damaged"):
        check(path)


def test_arrays_that_unpack_to_more_than_the_limit_are_refused(make_npz: Build, check: Check) -> None:
    with pytest.raises(DataError, match=r"'x\.npy'"):
        check(make_npz(x=examples(100), y=Y), max_unpacked_bytes=10_000)


def test_highly_compressible_arrays_are_no_bombs(check: Check, tmp_path: Path) -> None:
    x = np.zeros((40, 500_000), np.uint8)
    x[:, 0] = np.arange(40)
    np.savez_compressed(tmp_path / "upload.npz", x=x, y=Y)
    assert check(tmp_path / "upload.npz")[0].splits["train"].examples > 20


def test_names_of_examples_say_array_and_row() -> None:
    names = RowNames([("x_train", 3), ("x_test", 2)])
    assert list(names) == ["x_train[0]", "x_train[1]", "x_train[2]", "x_test[0]", "x_test[1]"]
    assert names[1:3] == ["x_train[1]", "x_train[2]"]
    with pytest.raises(IndexError):
        names[5]
