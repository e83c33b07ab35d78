"""Where the layer table and Keras' own graph say that the frozen part of a phase ends: at the same place.

Plans are told from tables, trainings look at the graph; a plan that promises another cache than the job makes would
not be one.
"""

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.dataset import SPLITS, DatasetInfo, SplitInfo
from app.domain.layout import lay_out
from app.domain.model import SourceInfo
from app.domain.selection import highest_rates, select
from app.domain.spec import ResolvedSpec, Spec, resolve

pytestmark = pytest.mark.tensorflow


def plain() -> Any:
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(2.0, name="scale"),
            layers.Conv2D(4, 3, name="conv_1"),
            layers.BatchNormalization(name="norm_1"),
            layers.Dropout(0.2, name="drop"),
            layers.Conv2D(4, 3, name="conv_2"),
            layers.BatchNormalization(name="norm_2"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(2, activation="softmax", name="top"),
        ]
    )


def branched() -> Any:
    import keras
    from keras import layers

    raw = keras.Input((8, 8, 3))
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(raw)
    left = layers.Conv2D(4, 3, padding="same", name="left")(stem)
    right = layers.GaussianNoise(0.1, name="noise")(layers.Conv2D(4, 1, name="right")(stem))
    joined = layers.ReLU(name="relu")(layers.Add(name="join")([left, right]) + 1.0)
    skipped = layers.Concatenate(name="skip")([joined, raw])
    return keras.Model(raw, layers.Dense(2, activation="softmax", name="top")(layers.Flatten(name="flat")(skipped)))


def nested() -> Any:
    import keras
    from keras import layers

    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="low"),
            layers.Dropout(0.0, name="none"),
            layers.Dense(5, name="high"),
        ],
        name="inner",
    )
    shared = layers.Dense(5, name="shared")
    raw = keras.Input((6,))
    x = shared(shared(inner(raw)))
    return keras.Model(raw, layers.Dense(2, activation="softmax", name="top")(layers.Dense(4, name="last")(x)))


NEW: dict[str, Any] = {"layers": []}
WHOLE = {"drop_last": 0}
CASES: list[tuple[Callable[[], Any], dict[str, Any], Any, dict[str, Any]]] = [
    (make, cut, head, phase)
    for make, cuts, selections in (
        (
            plain,
            [WHOLE, {"drop_last": 1}, {"layer": "relu"}],
            ["none", "all", {"last": 2}, {"match": "conv_2"}, {"last": 4}],
        ),
        (
            branched,
            [WHOLE, {"drop_last": 1}, {"layer": "join"}],
            ["none", "all", {"match": "left"}, {"match": "right"}],
        ),
        (nested, [WHOLE, {"drop_last": 1}], ["none", {"match": "high"}, {"match": "shared"}, {"match": "last|low"}]),
    )
    for cut in cuts
    for head in (NEW, {"layers": [{"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 4}]}, "keep")
    if head != "keep" or cut == WHOLE
    if head == "keep" or cut != WHOLE
    for selection in selections
    for phase in (
        {"unfreeze": selection, "epochs": 2, "layer_decay": 0.5},
        {"unfreeze": selection, "epochs": 2, "batch_norm": "train"},
    )
]


@pytest.fixture(scope="module")
def sources_of() -> Callable[[Callable[[], Any]], Any]:
    """Sources, each built once."""
    from worker.engine import canonical, sources
    from worker.engine.surgery import layer_table

    made: dict[Any, Any] = {}

    def source_of(make: Callable[[], Any]) -> Any:
        if make not in made:
            model = make()
            info = SourceInfo(
                format="keras",
                keras_version="3",
                class_name="Functional",
                name="source",
                input_shape=list(model.inputs[0].shape),
                input_dtype="float32",
                output_shape=list(model.outputs[0].shape),
                parameters=model.count_params(),
                layers=layer_table(model),
                rescale="none",
                digest=sources.digest(model),
            )
            made[make] = canonical.Source(model, info)
        return made[make]

    return source_of


@pytest.mark.parametrize(("make", "cut", "head", "phase"), CASES)
def test_tables_and_graphs_agree(
    sources_of: Callable[[Callable[[], Any]], Any],
    make: Callable[[], Any],
    cut: dict[str, Any],
    head: Any,
    phase: dict[str, Any],
) -> None:
    from app.domain.boundary import trainable_parameters
    from worker.engine import assembly, boundary, schedule
    from worker.engine.wiring import Wiring

    source = sources_of(make)
    spec = _spec(cut, head, phase)
    data = _data(source.info)
    rows = lay_out(spec, source.info, data)
    told = select(rows, spec.schedule[0])

    network = assembly.network(spec, source, data)
    selection = schedule.select(network, spec.schedule[0])
    schedule.freeze(network, selection)
    found = boundary.find(network, Wiring(network.model), selection)

    assert [row.path.rpartition("/")[2] for row in told.edge.rows] == [
        name if name != "the input" else rows.source.layers[0].path for name in found.makers
    ]
    assert told.edge.has_weights == found.has_weights
    trained = [row for row in rows.rows if row.index in told.moving or row in rows.head]
    assert sum(trainable_parameters(row) for row in trained) == selection.sizes()[0]
    rates = highest_rates(rows, spec.schedule[0])
    by_path = {row.path: rates[row.index] / 0.01 for row in rows.backbone if row.index in rates}
    assert by_path == pytest.approx(selection.factors)


def _spec(cut: dict[str, Any], head: Any, phase: dict[str, Any]) -> ResolvedSpec:
    return resolve(Spec.model_validate({"cut": cut, "head": head, "schedule": [phase]}), seed=1)


def _data(source: SourceInfo) -> DatasetInfo:
    return DatasetInfo(
        kind="arrays",
        task="single_label",
        example_shape=source.input_shape[1:],
        dtype="float32",
        value_range=(0, 1),
        classes=["a", "b"],
        splits={name: SplitInfo(examples=8) for name in SPLITS},
        digest="0" * 64,
    )
