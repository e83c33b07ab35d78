"""The step functions, against `keras.Model.fit` on the same batches."""

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

BATCHES = (8, 8, 3)
OUTPUTS = {
    "binary": (1, "sigmoid"),
    "single_label": (3, "softmax"),
    "multi_label": (3, "sigmoid"),
    "regression": (2, "linear"),
}
KERAS = {
    "multi_label": ("binary_crossentropy", "binary_accuracy"),
    "binary": ("binary_crossentropy", "accuracy"),
    "single_label": ("sparse_categorical_crossentropy", "accuracy"),
    "regression": ("mse", "mae"),
}


def examples(task: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    x = random.normal(size=(sum(BATCHES), 5)).astype("float32")
    if task == "regression":
        return x, random.normal(size=(len(x), 2)).astype("float32")
    if task == "multi_label":
        return x, random.integers(0, 2, (len(x), 3)).astype("float32")
    return x, random.integers(0, 2 if task == "binary" else 3, len(x)).astype("int32")


def batches(x: np.ndarray, y: np.ndarray) -> list[tuple[Any, Any]]:
    import tensorflow as tf

    ends = np.cumsum(BATCHES)[:-1]
    return [(tf.constant(a), tf.constant(b)) for a, b in zip(np.split(x, ends), np.split(y, ends), strict=True)]


def build(task: str, *, dropout: float = 0.0) -> Any:
    """A network with what can go wrong: regularizers, dropout and BatchNormalization on both sides."""
    import keras
    from keras import layers

    from worker.engine.steps import Network

    keras.utils.set_random_seed(3)
    units, activation = OUTPUTS[task]
    inputs = keras.Input((5,))
    tensor = layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l2", name="first")(inputs)
    tensor = layers.Dropout(dropout, seed=1)(layers.BatchNormalization(name="norm")(tensor))
    backbone = keras.Model(inputs, layers.Activation("tanh")(tensor))
    tensor = layers.BatchNormalization(name="head_norm")(backbone.outputs[0])
    outputs = layers.Dense(units, activation=activation, kernel_regularizer="l2", name="output")(tensor)
    model = keras.Model(inputs, outputs)
    return Network(model=model, backbone=backbone, head=keras.Model(backbone.outputs[0], outputs))


def freeze(network: Any, *, backbone: bool) -> None:
    """`backbone`: freeze all of it; otherwise only its BatchNormalization."""
    for layer in network.backbone.layers:
        layer.trainable = not backbone and layer.name != "norm"


def step(network: Any, task: str, optimizer: Any = None) -> Any:
    import keras

    from worker.engine.objective import Objective
    from worker.engine.steps import TrainStep

    return TrainStep(network, Objective(task), optimizer or keras.optimizers.Adam(0.01))


@pytest.mark.parametrize(
    ("task", "frozen"),
    [
        ("binary", False),
        ("single_label", False),
        ("multi_label", False),
        ("regression", False),
        ("single_label", True),
    ],
)
def test_two_epochs_give_the_weights_and_metrics_of_keras_fit(task: str, frozen: bool) -> None:
    import keras

    from worker.engine.totals import Totals

    x, y = examples(task)
    ours, theirs = build(task), build(task)
    freeze(ours, backbone=frozen)
    freeze(theirs, backbone=frozen)
    train_step, metric = step(ours, task), KERAS[task][1]
    history = []
    for _ in range(2):
        totals = Totals()
        for batch in batches(x, y):
            totals.add(train_step(*batch))
        history.append(totals.metrics(metric))

    loss, _ = KERAS[task]
    theirs.model.compile(keras.optimizers.Adam(0.01), loss=loss, metrics=[metric])
    expected = theirs.model.fit(x, y, batch_size=BATCHES[0], epochs=2, shuffle=False, verbose=0).history
    for name, values in expected.items():
        assert [epoch[name] for epoch in history] == pytest.approx(values, rel=1e-5), name
    for mine, other in zip(ours.model.weights, theirs.model.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6, err_msg=mine.path)


@pytest.mark.parametrize("task", OUTPUTS)
def test_evaluation_gives_the_metrics_and_predictions_of_keras(task: str) -> None:
    from worker.engine.objective import Objective
    from worker.engine.steps import EvaluationStep
    from worker.engine.totals import Totals

    x, y = examples(task)
    network = build(task, dropout=0.5)
    evaluate, totals, outputs = EvaluationStep(network, Objective(task)), Totals(), []
    for batch in batches(x, y):
        sums, predicted = evaluate(*batch)
        totals.add(sums)
        outputs.append(predicted)
    loss, metric = KERAS[task]
    network.model.compile(loss=loss, metrics=[metric])
    expected = network.model.evaluate(x, y, batch_size=BATCHES[0], verbose=0, return_dict=True)
    found = totals.metrics(metric)
    assert found[metric] == pytest.approx(expected[metric], rel=1e-5)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    np.testing.assert_allclose(np.concatenate(outputs), network.model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_one_trace_serves_all_batch_sizes() -> None:
    from worker.engine.objective import Objective
    from worker.engine.steps import EvaluationStep, TrainStep

    traces = []

    class Counting(Objective):
        def loss(self, labels: Any, outputs: Any) -> Any:
            traces.append(outputs.shape)
            return super().loss(labels, outputs)

    import keras

    network, (x, y) = build("binary"), examples("binary")
    train_step = TrainStep(network, Counting("binary"), keras.optimizers.Adam(0.01))
    evaluate = EvaluationStep(network, Counting("binary"))
    assert not traces  # neither is traced before it is needed
    for batch in batches(x, y) + batches(x, y):
        train_step(*batch)
        evaluate(*batch)
    assert len(traces) == 2


def test_dropout_of_a_frozen_backbone_is_off_and_its_random_state_untouched() -> None:
    import keras

    from worker.engine.objective import Objective
    from worker.engine.steps import EvaluationStep

    network, (batch, *_) = build("binary", dropout=0.5), batches(*examples("binary"))
    network.model.get_layer("head_norm").trainable = False  # so that training and evaluation may agree
    freeze(network, backbone=True)
    states = [np.asarray(variable) for variable in network.backbone.non_trainable_variables]
    expected = float(EvaluationStep(network, Objective("binary"))(*batch)[0][0])
    train_step = step(network, "binary", keras.optimizers.SGD(1e-9))
    assert [float(train_step(*batch)[0]) for _ in range(3)] == pytest.approx([expected] * 3, rel=1e-5)
    for before, variable in zip(states, network.backbone.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(before, variable)


def test_dropout_of_a_backbone_that_trains_is_on() -> None:
    import keras

    network, (batch, *_) = build("binary", dropout=0.5), batches(*examples("binary"))
    freeze(network, backbone=False)
    train_step = step(network, "binary", keras.optimizers.SGD(1e-9))
    assert len({float(train_step(*batch)[0]) for _ in range(5)}) == 5


def test_batch_norm_of_the_backbone_holds_still_while_the_layers_around_it_train() -> None:
    network, (batch, *_) = build("binary"), batches(*examples("binary"))
    freeze(network, backbone=False)
    still = [np.asarray(weight) for weight in network.model.get_layer("norm").weights]
    moving = [np.asarray(weight) for weight in network.model.get_layer("head_norm").weights]
    step(network, "binary")(*batch)
    for before, weight in zip(still, network.model.get_layer("norm").weights, strict=True):
        np.testing.assert_array_equal(before, weight)
    for before, weight in zip(moving, network.model.get_layer("head_norm").weights, strict=True):
        assert (before != np.asarray(weight)).all()


def test_a_loss_that_is_not_finite_is_told_with_its_step() -> None:
    import tensorflow as tf

    from worker.engine.totals import NotFiniteError, Totals

    totals = Totals()
    totals.add(tf.constant([1.0, 1.0, 1.0]))
    totals.add(tf.constant([float("nan"), 1.0, 1.0]))
    with pytest.raises(NotFiniteError) as caught:
        totals.metrics("accuracy")
    assert caught.value.step == 2


def test_totals_weigh_batches_by_their_examples() -> None:
    import tensorflow as tf

    from worker.engine.totals import Totals

    totals = Totals()
    totals.add(tf.constant([8 * 1.0, 4.0, 8.0]))
    totals.add(tf.constant([2 * 6.0, 2.0, 2.0]))
    assert totals.metrics("accuracy") == {"loss": 2.0, "accuracy": 0.6}


# === Gradients in parts ===


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch_also_where_the_last_part_is_smaller(
    task: str, frozen: bool
) -> None:
    import keras
    import tensorflow as tf

    from worker.engine.objective import Objective
    from worker.engine.steps import TrainStep

    x, y = (tf.constant(part) for part in examples(task))
    weighing = {"class_weights": (0.5, 2.0, 3.0)} if task in ("binary", "single_label") else {}
    whole, parts = build(task), build(task)
    results = []
    for network, at_once in ((whole, None), (parts, 8)):
        freeze(network, backbone=frozen)
        network.model.get_layer("head_norm").trainable = False  # nothing that depends on the batch
        for layer in network.model.layers:
            layer.activity_regularizer = None  # it would be divided by the examples of each part
        step = TrainStep(network, Objective(task, **weighing), keras.optimizers.SGD(0.1), at_once=at_once)
        results.append([np.asarray(step(x, y)) for _ in range(3)])
    assert len(x) % 8 == 3
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    for mine, other in zip(parts.model.weights, whole.model.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7, err_msg=mine.path)


# === Weights and smoothing ===


def test_class_weights_and_smoothing_by_hand() -> None:
    import tensorflow as tf

    from worker.engine.objective import Objective

    labels, outputs = tf.constant([0, 2]), tf.constant([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    plain = (-np.log(0.7) - np.log(0.4)) / 2
    weighted = (2.0 * -np.log(0.7) + 0.5 * -np.log(0.4)) / 2
    smooth = np.mean(
        [
            -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1)),
            -(0.1 * np.log(0.3) + 0.1 * np.log(0.3) + 0.8 * np.log(0.4)),
        ]
    )
    both = Objective("single_label", class_weights=(2.0, 1.0, 0.5), label_smoothing=0.3)
    assert float(Objective("single_label").training_loss(labels, outputs)) == pytest.approx(plain)
    assert float(both.loss(labels, outputs)) == pytest.approx(plain)  # what validation sees
    found = Objective("single_label", class_weights=(2.0, 1.0, 0.5)).training_loss(labels, outputs)
    assert float(found) == pytest.approx(weighted)
    assert float(Objective("single_label", label_smoothing=0.3).training_loss(labels, outputs)) == pytest.approx(smooth)

    labels, outputs = tf.constant([0, 1]), tf.constant([[0.2], [0.9]])
    found = Objective("binary", label_smoothing=0.2, class_weights=(1.0, 3.0)).training_loss(labels, outputs)
    first, second = -(0.1 * np.log(0.2) + 0.9 * np.log(0.8)), -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert float(found) == pytest.approx((first + 3 * second) / 2)


def test_several_labels_by_hand() -> None:
    import tensorflow as tf

    from worker.engine.objective import Objective

    labels, outputs = tf.constant([[1.0, 0.0], [1.0, 1.0]]), tf.constant([[0.8, 0.6], [0.9, 0.7]])
    objective = Objective("multi_label")
    expected = -np.mean(np.log([0.8, 0.4, 0.9, 0.7]))
    assert float(objective.loss(labels, outputs)) == pytest.approx(expected, rel=1e-5)
    assert np.asarray(objective.score(labels, outputs)).tolist() == [0.5, 1.0]
    assert np.asarray(objective.classes(outputs)).tolist() == [[1, 1], [1, 1]]
