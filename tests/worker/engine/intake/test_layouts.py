from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.domain.errors import SourceError
from worker.engine.intake.layouts import OLD, is_old, rewrite
from worker.engine.intake.vet import vet


def write(path: Path, members: dict[str, Any]) -> Path:
    """Arrays, and empty groups where the value is `None`."""
    with h5py.File(path, "w") as file:
        for name, array in members.items():
            if array is None:
                file.create_group(name)
            else:
                file[name] = array
    return path


def model(build: Any) -> dict[str, Any]:
    inner = build.sequential(
        build.input_layer(4), build.layer("Dense", "i1", units=4), build.layer("Dense", "i2", units=4), name="inner"
    )
    return build.sequential(
        build.input_layer(4),
        build.layer("Dense", "a", units=4),
        build.layer("Dropout", "drop", rate=0.5),
        build.layer("Dense", "b", units=4),
        inner,
    )


def stored(slash: str) -> dict[str, Any]:
    """What Keras 2.13 wrote: layers with weights count twice, so the second is number 2."""
    return {
        f"{OLD}{slash}dense/vars/0": np.float32(1),
        f"{OLD}{slash}dense_2/vars/0": np.float32(2),
        f"{OLD}{slash}dropout/vars": None,
        f"{OLD}{slash}sequential{slash}{OLD}{slash}dense/vars/0": np.float32(3),
        f"{OLD}{slash}sequential{slash}{OLD}{slash}dense_2/vars/0": np.float32(4),
        "optimizer/vars/0": np.float32(99),
    }


@pytest.mark.parametrize("slash", ["/", "\\"], ids=["linux", "windows"])
def test_arrays_are_found_by_the_order_of_the_layers(slash: str, build: Any, tmp_path: Path) -> None:
    weights = write(tmp_path / "old.h5", stored(slash))
    assert is_old(weights)
    rewrite(weights, model(build), tmp_path / "new.h5")
    found = {}
    with h5py.File(tmp_path / "new.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    assert found == {
        "layers/dense/vars/0": 1,
        "layers/dense_1/vars/0": 2,
        "layers/sequential/layers/dense/vars/0": 3,
        "layers/sequential/layers/dense_1/vars/0": 4,
    }


def test_ten_layers_of_a_class_are_ordered_by_number_and_not_by_letters(build: Any, tmp_path: Path) -> None:
    names = ["dense", *(f"dense_{2 * index}" for index in range(1, 12))]
    weights = write(tmp_path / "old.h5", {f"{OLD}/{name}/vars/0": np.float32(i) for i, name in enumerate(names)})
    layers = [build.layer("Dense", f"d{index}", units=1) for index in range(12)]
    rewrite(weights, build.sequential(build.input_layer(4), *layers), tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5") as file:
        assert [file[f"layers/dense{f'_{i}' if i else ''}/vars/0"][()] for i in range(12)] == list(range(12))


def test_a_number_of_layers_that_does_not_fit_is_refused(build: Any, tmp_path: Path) -> None:
    weights = write(tmp_path / "old.h5", {f"{OLD}/dense/vars/0": np.float32(1)})
    with pytest.raises(SourceError, match="1 layers of class 'dense', and the architecture has 2"):
        rewrite(weights, build.mlp(), tmp_path / "new.h5")


def test_todays_layout_is_left_alone(keras_file: Callable[..., Path], tmp_path: Path) -> None:
    vetted = vet(keras_file(), tmp_path)
    assert not is_old(vetted.weights)
    assert vetted.upgrades == []
