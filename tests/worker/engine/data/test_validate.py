"""From an upload to a canonical folder: what is found out, what is written, what is left behind."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetInfo
from app.domain.errors import DataError, PlatformError
from worker.engine.data import images
from worker.engine.data.found import Array, ExampleWriter
from worker.engine.data.stored import StoredDataset, open_dataset

Build = Callable[..., Path]
Check = Callable[..., Any]
Images = dict[str, bytes]


def everything(dataset: StoredDataset) -> dict[str, list[tuple[bytes, int]]]:
    splits = {name: dataset.split(name) for name in dataset.info.splits}
    return {
        name: [(split.example(index).tobytes(), int(split.labels[index])) for index in range(len(split))]
        for name, split in splits.items()
    }


def test_what_is_found_out_is_stored_with_the_dataset(make_zip: Build, check: Check, two_classes: Images) -> None:
    info, preview, folder = check(make_zip(two_classes))
    assert (info.kind, info.task, info.classes, info.dtype) == ("images", "binary", ["cat", "dog"], "uint8")
    assert info.example_shape == [9, 12, 3]
    assert {name: sum(split.class_counts.values()) for name, split in info.splits.items()} == {
        name: split.examples for name, split in info.splits.items()
    }
    assert DatasetInfo.model_validate_json((folder / "dataset.json").read_text()) == info
    assert len(preview) == 6


@pytest.mark.parametrize("sizes", [[(12, 9)], [(12, 9), (5, 30), (7, 7)]], ids=["one size", "three sizes"])
def test_examples_come_back_with_their_pixels_and_labels(
    sizes: list[tuple[int, int]], make_zip: Build, check: Check, picture: Callable[..., bytes]
) -> None:
    files = {
        f"{name}/{index}.png": picture(100 * (name == "dog") + index, size=sizes[index % len(sizes)])
        for name in ("cat", "dog")
        for index in range(12)
    }
    _, _, folder = check(make_zip(files))
    expected = {(images.decode(data).tobytes(), int(name.startswith("dog"))) for name, data in files.items()}
    stored = everything(open_dataset(folder))
    assert {example for split in stored.values() for example in split} == expected
    assert sum(len(split) for split in stored.values()) == 24


def test_grayscale_among_colour_comes_back_with_three_channels(
    make_zip: Build, check: Check, two_classes: Images, picture: Callable[..., bytes]
) -> None:
    gray = picture(7777, mode="L")
    info, _, folder = check(make_zip(two_classes | {"cat/gray.png": gray}))
    assert info.example_shape == [9, 12, 3]
    expected = np.repeat(images.decode(gray), 3, axis=-1).tobytes()
    assert expected in {example for split in everything(open_dataset(folder)).values() for example, _ in split}


def test_the_archive_and_its_order_do_not_matter(
    make_zip: Build, make_tar: Build, check: Check, two_classes: Images
) -> None:
    first, _, one = check(make_zip(two_classes), name="one")
    backwards = {f"photos/{name}": data for name, data in reversed(two_classes.items())}
    second, _, two = check(make_tar({"photos/": b""} | backwards), name="two")
    assert first.digest == second.digest
    assert everything(open_dataset(one)) == everything(open_dataset(two))


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files | {"cat/0.png": files["cat/1.png"]},
        lambda files: {name: data for name, data in files.items() if name != "cat/0.png"},
        lambda files: files | {"cat/0.png": files["dog/0.png"], "dog/0.png": files["cat/0.png"]},
    ],
    ids=["an image changed", "an image gone", "labels exchanged"],
)
def test_any_change_of_the_data_changes_the_digest(
    change: Callable[[Images], Images], make_zip: Build, check: Check, two_classes: Images
) -> None:
    first = check(make_zip(two_classes), name="one")[0]
    assert check(make_zip(change(two_classes)), name="two")[0].digest != first.digest


def test_other_splits_or_class_names_change_the_digest(make_zip: Build, check: Check, two_classes: Images) -> None:
    path = make_zip(two_classes)
    runs: list[dict[str, Any]] = [{}, {"split_seed": 1}, {"test_fraction": 0.3}, {"class_names": ["dog", "cat"]}]
    runs.append({"task": "single_label"})
    digests = [check(path, name=str(index), **options)[0].digest for index, options in enumerate(runs)]
    assert len(set(digests)) == len(runs)


def test_a_dataset_that_grows_keeps_its_splits(
    make_zip: Build, check: Check, two_classes: Images, picture: Callable[..., bytes]
) -> None:
    before = everything(open_dataset(check(make_zip(two_classes), name="before")[2]))
    more = {f"cat/new{seed}.png": picture(5000 + seed) for seed in range(30)}
    after = everything(open_dataset(check(make_zip(two_classes | more), name="after")[2]))
    # With 20 and 50 examples of a class and this seed no border has to move.
    assert all(set(before[name]) <= set(after[name]) for name in before)


# === Duplicates ===


def test_copies_in_one_split_are_mentioned(make_zip: Build, check: Check, two_classes: Images) -> None:
    info, _, _ = check(make_zip(two_classes | {"cat/copy.png": two_classes["cat/3.png"]}))
    assert info.duplicates_across_splits == 0
    assert info.warnings == ["1 examples are exact copies of others, for instance 'cat/3.png' and 'cat/copy.png'."]


def test_copies_in_two_classes_are_mentioned_and_share_a_split(
    make_zip: Build, check: Check, two_classes: Images
) -> None:
    info, _, _ = check(make_zip(two_classes | {"dog/copy.png": two_classes["cat/3.png"]}))
    assert info.duplicates_across_splits == 0
    assert "1 examples stand in several classes with the same bytes" in info.warnings[1]


def test_copies_across_splits_that_the_file_brings_are_counted_and_listed(
    make_zip: Build, check: Check, two_classes: Images
) -> None:
    files = {f"train/{name}": data for name, data in two_classes.items()}
    copies = {"test/cat/a.png": two_classes["cat/3.png"], "test/dog/b.png": two_classes["dog/4.png"]}
    info, _, _ = check(make_zip(files | copies))
    assert info.splits["test"].examples == 2
    assert info.duplicates_across_splits == 4
    assert sorted(info.duplicates) == [["train/cat/3.png", "test/cat/a.png"], ["train/dog/4.png", "test/dog/b.png"]]


# === Refusals ===


def test_a_class_with_too_few_examples_is_named(
    make_zip: Build, check: Check, two_classes: Images, picture: Callable[..., bytes]
) -> None:
    few = {f"bird/{seed}.png": picture(900 + seed) for seed in range(2)}
    with pytest.raises(DataError, match="class 'bird' has 2 different examples; at least 3"):
        check(make_zip(two_classes | few))


def test_a_class_that_train_lacks_is_named(make_zip: Build, check: Check, two_classes: Images) -> None:
    files = {f"train/{name}": data for name, data in two_classes.items()}
    with pytest.raises(DataError, match=r"class 'bird' \('test/bird/1\.png'\) is in the test split but not in train"):
        check(make_zip(files | {"test/bird/1.png": two_classes["cat/0.png"]}))


def test_another_kind_than_asked_for_is_refused(make_zip: Build, check: Check, two_classes: Images) -> None:
    with pytest.raises(DataError, match="kind is 'arrays', but the file holds images"):
        check(make_zip(two_classes), kind="arrays")


def test_a_refused_upload_leaves_nothing_behind(make_zip: Build, check: Check, tmp_path: Path) -> None:
    path = make_zip({"cat/1.png": b"", "../evil.png": b""})
    with pytest.raises(DataError):
        check(path)
    assert list(tmp_path.iterdir()) == [path]


class FullDisk(ExampleWriter):
    """Writes where there is never any room."""

    def __init__(self, path: Path, dtype: str, *, max_bytes: int) -> None:
        path.touch()
        super().__init__(Path("/dev/full"), dtype, max_bytes=max_bytes)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110 (at import)
def test_a_full_disk_is_the_platforms_fault_and_leaves_nothing_behind(
    make_zip: Build, check: Check, two_classes: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(two_classes)
    monkeypatch.setattr(images, "ExampleWriter", FullDisk)
    with pytest.raises(PlatformError, match="no room left") as caught:
        check(path)
    assert caught.value.failure().code == "storage_full"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_folder_is_the_platforms_fault(make_zip: Build, check: Check, two_classes: Images) -> None:
    _, _, folder = check(make_zip(two_classes))
    (folder / "examples.npy").write_bytes((folder / "examples.npy").read_bytes()[:-100])
    with pytest.raises(PlatformError, match="cannot be opened"):
        open_dataset(folder)


def test_validation_needs_no_tensorflow() -> None:
    code = "import worker.engine.data, sys; print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# === Real data ===


def test_trashnet_is_understood(shared_data: Path, check: Check) -> None:
    info, preview, folder = check(shared_data / "trashnet.zip")
    assert info.classes == ["cardboard", "glass", "metal", "paper", "plastic", "trash"]
    assert sum(split.examples for split in info.splits.values()) == 2527
    assert info.example_shape == [160, 120, 3]
    assert info.corrupt_count == info.duplicates_across_splits == 0
    assert any(warning.startswith("3 examples are exact copies") for warning in info.warnings)
    assert len(preview) == 18
    dataset = open_dataset(folder)
    for name, split in info.splits.items():
        share = {"train": 0.7, "validation": 0.15, "test": 0.15}[name]
        assert abs(split.examples / 2527 - share) < 0.03
        assert len(dataset.split(name)) == split.examples
        assert min(split.class_counts.values()) >= 137 * share / 2


def idx(path: Path) -> Array:
    """Fashion-MNIST's own format: https://github.com/zalandoresearch/fashion-mnist"""  # noqa: D415 (a link)
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def test_fashion_mnist_is_understood(shared_data: Path, check: Check, make_npz: Build) -> None:
    folder = shared_data / "keras" / "datasets" / "fashion-mnist"
    x, y = idx(folder / "t10k-images-idx3-ubyte.gz"), idx(folder / "t10k-labels-idx1-ubyte.gz")
    chosen = np.isin(y, (5, 6))
    path = make_npz(
        x_train=x[chosen][:200], y_train=y[chosen][:200] - 5, x_test=x[chosen][200:], y_test=y[chosen][200:] - 5
    )
    info, preview, _ = check(path, class_names=["sandal", "shirt"])
    assert (info.task, info.classes, info.dtype) == ("binary", ["sandal", "shirt"], "uint8")
    assert info.splits["test"].examples == 1800
    assert info.splits["train"].examples + info.splits["validation"].examples == 200
    assert preview[0].image_png is not None


def test_the_digits_of_scikit_learn_are_understood(check: Check, make_npz: Build) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    info, preview, _ = check(make_npz(x=digits.data, y=digits.target))
    assert (info.task, info.dtype, info.value_range) == ("single_label", "float32", (0.0, 16.0))
    assert info.classes == [str(digit) for digit in range(10)]
    assert len(preview) == 30
    assert preview[0].values is not None
    assert len(preview[0].values) == 32
