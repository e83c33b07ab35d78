"""The self-test: what training relies on, and what is known of Keras, tried out on what this process has.

    a small job, twice here     frozen and held weights against the source's; bits of the two results
    the same job elsewhere      the caller compares its bits with those of another process
    the source's features       twice on the same batches
    a few lines of Keras        what the guides and our decisions say of it

A few seconds, in a process of its own: a job turns determinism on, which cannot be turned off again. What a job checks
by itself (its proofs, its export) raises here, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.domain.dataset import DatasetOptions
from app.domain.head import Head, HeadDropout
from app.domain.optimizers import Adam, Sgd
from app.domain.phases import Phase, UnfreezeMatch
from app.domain.progress import Progress
from app.domain.spec import DropLast, ResolvedSpec
from app.domain.worker import Fact, FactKind
from worker.engine import canonical, sources
from worker.engine.data import validate
from worker.engine.train import TrainedModel, train

SEED = 7
EXAMPLES = 96
SHAPE = (8, 8, 3)
FROZEN, HELD, TRAINED = "frozen_conv", "held_norm", "trained_conv"
EXPORT_TOLERANCE = 1e-4
"""Of probabilities; another batch size alone makes a difference of about 1e-7 here."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Job:
    source: Path
    data: Path
    folder: Path

    def train(self, name: str) -> TrainedModel:
        return train(_spec(), self.source, self.data, self.folder / name, _Silent())


class _Silent:
    """Nobody listens, and nobody wants it to stop."""

    def report(self, progress: Progress) -> None:
        pass

    def check(self) -> None:
        pass


def run(folder: Path) -> tuple[list[Fact], str]:
    """Try everything out in a folder of its own; the facts, and the bits to compare with those of another process."""
    job = _prepared(folder)
    first, second = job.train("first"), job.train("second")
    facts = [*_freezing(job, first), *_files(first), _same_seed(first, second), *_features(job), *_keras()]
    return facts, first.info.digest


def bits(folder: Path) -> str:
    """The bits of the job's result, as `run` gives them, from a second process."""
    return _prepared(folder).train("again").info.digest


# === The job ===


def _prepared(folder: Path) -> _Job:
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    sources.write_canonical(_source(), folder / "source")
    generator = np.random.default_rng(SEED)
    examples = generator.random((EXAMPLES, *SHAPE), "float32")
    np.savez(folder / "examples.npz", x=examples, y=(examples.mean((1, 2, 3)) > 0.5).astype("int64"))
    validate(folder / "examples.npz", folder / "data", options=DatasetOptions(), max_unpacked_bytes=2**30)
    return _Job(folder / "source", folder / "data", folder)


def _source() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE, name="examples_in"),
            keras.layers.Conv2D(4, 3, name=FROZEN),
            keras.layers.BatchNormalization(name=HELD),
            keras.layers.ReLU(name="relu"),
            keras.layers.Dropout(0.1, seed=SEED, name="dropout"),
            keras.layers.Conv2D(4, 3, activation="relu", name=TRAINED),
            keras.layers.GlobalAveragePooling2D(name="pooled"),
            keras.layers.Dense(2, name="top"),
        ],
        name="selftest",
    )


def _spec() -> ResolvedSpec:
    """BatchNormalization is unfrozen, and held still all the same; the first layer is never unfrozen."""
    above = UnfreezeMatch(match=f"^({HELD}|{TRAINED})$")
    return ResolvedSpec(
        cut=DropLast(drop_last=1),
        head=Head(layers=[HeadDropout(type="dropout", rate=0.25)]),
        schedule=[
            Phase(name="head", unfreeze="none", epochs=1, optimizer=Sgd(type="sgd", learning_rate=0.1)),
            Phase(name="above", unfreeze=above, epochs=2, optimizer=Adam(type="adam", learning_rate=0.01)),
        ],
        batch_size=16,
        seed=SEED,
    )


# === What training relies on ===


def _freezing(job: _Job, trained: TrainedModel) -> list[Fact]:
    before, after = _weights(job.source), _weights(trained.canonical)
    return [
        _unmoved("frozen_weights_stay_still", FROZEN, before, after),
        _unmoved("held_batch_norm_stays_still", HELD, before, after),
        _moved("unfrozen_weights_move", TRAINED, before, after),
    ]


def _unmoved(name: str, layer: str, before: dict[str, Array], after: dict[str, Array]) -> Fact:
    equal, count = _equal_arrays(layer, before, after)
    return _fact(name, "freezing", equal == count > 0, f"{equal} of {count} arrays bit-identical to the source's")


def _moved(name: str, layer: str, before: dict[str, Array], after: dict[str, Array]) -> Fact:
    equal, count = _equal_arrays(layer, before, after)
    return _fact(name, "freezing", equal < count, f"{count - equal} of {count} arrays changed")


def _equal_arrays(layer: str, before: dict[str, Array], after: dict[str, Array]) -> tuple[int, int]:
    keys = [key for key in before if key.startswith(f"{layer}/")]
    return sum(before[key].tobytes() == after[key].tobytes() for key in keys), len(keys)


def _weights(folder: Path) -> dict[str, Array]:
    return canonical.read(folder)[1]


def _files(trained: TrainedModel) -> list[Fact]:
    read_back = sources.digest(sources.load(trained.canonical).model)
    same = read_back == trained.info.digest
    difference = trained.report.export_difference
    exported = difference is not None and difference <= EXPORT_TOLERANCE
    return [
        _fact("weights_are_read_as_they_were_written", "files", same, "equal digests" if same else "other digests"),
        _fact("an_export_predicts_what_was_trained", "files", exported, f"largest difference {difference}"),
    ]


def _same_seed(first: TrainedModel, second: TrainedModel) -> Fact:
    one, other = first.info.digest, second.info.digest
    found = "equal digests of all weights" if one == other else f"digests {one[:12]} and {other[:12]}"
    return _fact("same_seed_same_bits", "determinism", one == other, found)


def _features(job: _Job) -> list[Fact]:
    """What the feature cache relies on: the same batches give the same bits."""
    model = sources.load(job.source).model
    x = np.random.default_rng(SEED).random((EXAMPLES, *SHAPE), "float32")
    signature = tf.TensorSpec((None, *SHAPE), "float32")
    predict = tf.function(lambda batch: model(batch, training=False), input_signature=[signature], autograph=False)

    def passed(size: int) -> Array:
        return np.concatenate([predict(x[start : start + size]).numpy() for start in range(0, EXAMPLES, size)])

    first, again, other = passed(32), passed(32), passed(7)
    largest = float(np.max(np.abs(first - again)))
    between = float(np.max(np.abs(first - other)))
    return [
        _fact(
            "same_batches_give_the_same_features",
            "determinism",
            first.tobytes() == again.tobytes(),
            f"largest difference {largest:.2g}",
        ),
        _fact(
            "features_depend_on_the_batch_size", "keras", first.tobytes() != other.tobytes(), f"largest {between:.2g}"
        ),
    ]


# === What is known of Keras ===


def _keras() -> list[Fact]:
    return [_clone_copies_nothing(), _trainable_needs_compiling(), _inference_mode_does_not_hold()]


def _clone_copies_nothing() -> Fact:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    copy = keras.models.clone_model(model)
    largest = _largest_change(model.get_weights(), copy.get_weights())
    return _fact("clone_model_copies_no_weights", "keras", largest > 0, f"kernels differ by up to {largest:.2g}")


def _trainable_needs_compiling() -> Fact:
    layer = keras.layers.Dense(1)
    model = _compiled([layer])
    _fit(model)
    layer.trainable = False
    change = _largest_change(layer.get_weights(), _after_fit(model, layer))
    measured = f"a layer frozen after compile() moved by up to {change:.2g}"
    return _fact("trainable_needs_compiling", "keras", change > 0, measured)


def _inference_mode_does_not_hold() -> Fact:
    norm = keras.layers.BatchNormalization()
    raw = keras.Input((4,))
    base = keras.Sequential([keras.Input((4,)), norm])
    model = keras.Model(raw, keras.layers.Dense(1)(base(raw, training=False)))
    model.compile("sgd", "mse")
    before = norm.moving_mean.numpy()
    change = _largest_change([before], [_after_statistics(model, norm)])
    measured = f"statistics of an unfrozen base called with training=False moved by up to {change:.2g}"
    return _fact("training_false_does_not_hold_batch_norm", "keras", change > 0, measured)


def _compiled(layers: Sequence[keras.Layer]) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    return model


def _fit(model: keras.Model) -> None:
    x = np.random.default_rng(SEED).random((8, 4), "float32")
    model.train_on_batch(x, x.sum(1, keepdims=True))


def _after_fit(model: keras.Model, layer: keras.Layer) -> list[Array]:
    _fit(model)
    return layer.get_weights()


def _after_statistics(model: keras.Model, norm: keras.layers.BatchNormalization) -> Array:
    _fit(model)
    return norm.moving_mean.numpy()


def _largest_change(before: Sequence[Array], after: Sequence[Array]) -> float:
    return max(float(np.max(np.abs(one - other))) for one, other in zip(before, after, strict=True))


def _fact(name: str, kind: FactKind, holds: bool, measured: str) -> Fact:  # noqa: FBT001 (private)
    return Fact(name=name, kind=kind, holds=holds, measured=measured)
