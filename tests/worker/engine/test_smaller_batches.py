"""A job that goes on with smaller batches takes the very same steps, up to the order of sums."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.adjusting import smaller_batches
from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import TrainingStopped

pytestmark = pytest.mark.tensorflow

ADAM = {"type": "adam", "learning_rate": 0.01}


@pytest.fixture
def source(store_source: Callable[..., Path], build_mlp: Callable[..., Any]) -> Path:
    return store_source(build_mlp(), rescale="none")


@pytest.fixture
def data(store_dataset: Callable[..., Path], blobs: Callable[..., Any]) -> Path:
    x, y = blobs(classes=3, examples=100)
    return store_dataset(x=x, y=y)


def test_what_was_kept_with_larger_batches_is_gone_on_from_with_smaller_ones(
    source: Path, data: Path, recorder: Any, tmp_path: Path
) -> None:
    from worker.engine.train import train

    phases = [{"epochs": 2, "optimizer": ADAM}, {"epochs": 2, "unfreeze": {"last": 1}, "optimizer": ADAM}]
    sent = resolve(Spec.model_validate({"schedule": phases, "batch_size": 14}), seed=2)
    smaller = smaller_batches(sent)
    assert smaller is not None

    def run(spec: ResolvedSpec, name: str, **stop: Any) -> tuple[Any, Any]:
        reporter = recorder(**stop)
        return train(spec, source, data, tmp_path / name, reporter), reporter

    whole, told = run(sent, "whole")
    anew, _ = run(smaller, "anew")
    with pytest.raises(TrainingStopped):
        run(sent, "interrupted", stop_after=told.checks["training"] // 2)
    resumed, resuming = run(smaller, "interrupted")

    (news,) = resuming.of("resumed")
    assert (news.fidelity, news.differences) == ("tolerance", ["batch_size 14, now 7"])
    assert resuming.of("checkpoint_refused") == []
    steps = [epoch.step for epoch in told.of("epoch")]
    assert steps[-1] > news.step > 0
    assert [epoch.step for epoch in resuming.of("epoch")] == [step for step in steps if step > news.step]
    assert resumed.report.spec.adjustments == smaller.adjustments
    for result in (anew, resumed):
        for one, other in zip(_weights(result), _weights(whole), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def _weights(trained: Any) -> list[np.ndarray[Any, Any]]:
    from worker.engine import sources

    return [np.asarray(weight) for weight in sources.load(trained.canonical).model.weights]
