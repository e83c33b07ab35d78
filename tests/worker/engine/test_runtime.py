"""Seeds, determinism, device and versions."""

import random
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


def test_preparing_makes_every_source_of_chance_repeatable() -> None:
    import keras
    import tensorflow as tf

    from worker.engine import runtime

    def draws() -> list[float]:
        runtime.prepare(11)
        numbers = [random.random(), float(np.random.rand()), float(tf.random.uniform(()))]  # noqa: S311, NPY002 (seeds of all)
        return [*numbers, float(keras.random.uniform(()))]

    assert draws() == draws()


def test_preparing_makes_tensorflow_deterministic() -> None:
    from tensorflow.python.framework import config

    from worker.engine import runtime

    runtime.prepare(1)
    assert config.is_op_determinism_enabled()


def test_device_is_the_gpus_name_or_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from worker.engine import runtime

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    assert runtime.device_name() == "cpu"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {"device_name": "NVIDIA H200"})
    assert runtime.device_name() == "NVIDIA H200"
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {})
    assert runtime.device_name() == "gpu"


def test_memory_of_every_gpu_grows_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from worker.engine import runtime

    growth: dict[Any, bool] = {"gpu:0": False, "gpu:1": True}
    changed = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: list(growth))
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", growth.__getitem__)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: changed.append((gpu, on)))
    runtime.prepare(1)
    assert changed == [("gpu:0", True)]  # setting it again after TensorFlow has started would raise


def test_versions_are_those_of_the_installed_packages() -> None:
    from importlib import metadata

    from worker.engine import runtime

    versions = runtime.versions()
    assert {name: versions[name] for name in ("keras", "tensorflow", "numpy")} == {
        name: metadata.version(name) for name in ("keras", "tensorflow", "numpy")
    }


def test_usable_cores_are_those_that_tensorflow_may_use_and_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from worker.engine import runtime

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 4}, raising=False)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    assert runtime.usable_cores() == "3"
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert runtime.usable_cores() == "3 (TF_NUM_INTRAOP_THREADS=2)"
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")
    assert runtime.usable_cores() == "3 (TF_NUM_INTRAOP_THREADS=2, TF_NUM_INTEROP_THREADS=1)"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runtime.usable_cores().startswith(f"{os.cpu_count()} (")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("8", "8", []),
        ("8", "2", ["usable cores 8, now 2"]),
        ("8", "8 (TF_NUM_INTRAOP_THREADS=2)", ["usable cores 8, now 8 (TF_NUM_INTRAOP_THREADS=2)"]),
        (None, "2", []),
    ],
)
def test_other_usable_cores_are_a_difference_if_both_are_known(before: str | None, now: str, told: list[str]) -> None:
    from worker.engine.checkpoint import Surroundings
    from worker.engine.snapshot import differences, fidelity

    machine = {"versions": {"keras": "3"}, "device": "cpu", "machine": "a processor, 8 cores"}
    written = machine if before is None else {**machine, "usable_cores": before}
    here = Surroundings.model_validate({**machine, "usable_cores": now})
    changed = differences(Surroundings.model_validate(written), here)
    assert changed == told
    assert fidelity(here, changed) == ("tolerance" if told else "exact")
