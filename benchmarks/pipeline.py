"""Does the pipeline keep up with the training step? Images per second of both, in one run.

    uv run python benchmarks/pipeline.py trashnet.zip [--size 160] [--seconds 10]

The model is MobileNet 0.25; its weights are drawn, for speed does not depend on them. Three rates for each kind of
phase, of one process on this machine:

    pipeline    batches read from the stored dataset, resized and scaled, with nothing else to do
    step        training on one batch that is there already, again and again
    together    training as a job does it: batches made in threads while the step runs

The kinds: everything unfrozen, and the head alone (the frozen backbone runs, nothing is cached). The pipeline is the
bottleneck where it is slower than the step; `kept` says how much of the step's own rate is left when both share the
machine's cores. Prints JSON.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

from app.domain.dataset import DatasetOptions
from app.domain.head import Head
from app.domain.spec import DropLast, Preprocessing
from worker.engine import runtime, sources, surgery
from worker.engine.data import Preprocess, Split, StoredDataset, open_dataset, validate
from worker.engine.data.found import Array
from worker.engine.objective import Objective, Tensor
from worker.engine.steps import Network, TrainStep

BATCH = 32
LIMIT = 2**40


def main() -> None:
    """Prepare source and dataset, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="a zip of class folders")
    parser.add_argument("--size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each rate")
    options = parser.parse_args()
    runtime.prepare(0)
    with tempfile.TemporaryDirectory(prefix="thaw-pipeline-") as name:
        folder = Path(name)
        started = time.perf_counter()
        validate(options.data, folder / "data", options=DatasetOptions(), max_unpacked_bytes=LIMIT)
        decoding = time.perf_counter() - started
        data = open_dataset(folder / "data")
        source = _source(folder / "source", (options.size, options.size, 3))
        preprocess = Preprocess.resolve(Preprocessing(rescale="minus_one_to_one"), source.info, data.info)
        measured = {
            kind: _rates(_network(source, data, frozen=frozen), data, preprocess, options.seconds)
            for kind, frozen in (("everything unfrozen", False), ("head only", True))
        }
    images = sum(split.examples for split in data.info.splits.values())
    print(
        json.dumps(
            {
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "load": os.getloadavg()[0],
                    "device": runtime.device_name(),
                },
                "size": options.size,
                "batch": BATCH,
                "decoding_once": {"images": images, "images_per_second": round(images / decoding, 1)},
                "images_per_second": measured,
            },
            indent=2,
        )
    )


def _source(folder: Path, shape: tuple[int, int, int]) -> sources.Source:
    model = keras.applications.MobileNet(input_shape=shape, alpha=0.25, include_top=False, weights=None)
    sources.write_canonical(model, folder)
    return sources.load(folder)


def _network(source: sources.Source, data: StoredDataset, *, frozen: bool) -> Network:
    """The source with a new output layer; its BatchNormalization is held, as jobs do."""
    backbone = surgery.cut_at(source, DropLast(drop_last=0))
    backbone.trainable = not frozen
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    outputs = len(data.info.classes or ())
    model = surgery.attach_head(backbone, Head(), task=data.info.task, outputs=outputs, seed=0)
    return Network(model=model, backbone=backbone, head=keras.Model(backbone.outputs[0], model.outputs[0]))


def _rates(network: Network, data: StoredDataset, preprocess: Preprocess, seconds: float) -> dict[str, float]:
    step = TrainStep(network, Objective(data.info.task), keras.optimizers.Adam(1e-4))
    batches = _batches(data.split("train"), preprocess)
    there = _tensors(next(batches))
    _train(step, there)  # traced and warm
    rates = {
        "pipeline": _rate(lambda: len(next(batches)[1]), seconds),
        "step": _rate(lambda: _train(step, there), seconds),
        "together": _rate(lambda: _train(step, _tensors(next(batches))), seconds),
    }
    return {
        **{name: round(rate, 1) for name, rate in rates.items()},
        "pipeline_to_step": round(rates["pipeline"] / rates["step"], 2),
        "kept": round(rates["together"] / rates["step"], 3),
    }


def _batches(train: Split, preprocess: Preprocess) -> Iterator[tuple[Array, Array]]:
    """Batches of one epoch after another."""
    for epoch in itertools.count():
        yield from train.batches(BATCH, preprocess=preprocess, shuffle_seed=(0, epoch))


def _tensors(batch: tuple[Array, Array]) -> tuple[Tensor, Tensor]:
    return tf.convert_to_tensor(batch[0]), tf.convert_to_tensor(batch[1])


def _train(step: TrainStep, batch: tuple[Tensor, Tensor]) -> int:
    """One step, waited for; how many examples it had."""
    return int(step(*batch)[2])


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Examples per second of work that says how many it did."""
    work()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
