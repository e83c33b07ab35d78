"""The one look at the test split: figures with their 95 % intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

from app.domain.report import Evaluation, Interval

CONFIDENCE = 0.95
RESAMPLES = 2000

Array = np.ndarray[Any, Any]


def multi_label(labels: Array, predicted: Array, *, names: Sequence[str], loss: float, seed: int) -> Evaluation:
    """Both accuracies and per-label figures from true and predicted labels `(n, labels)`, 0 or 1 each.

    The labels of one example are no independent trials, so the interval of their accuracy is drawn over examples.
    """
    right = labels.astype("int64") == predicted
    return Evaluation(
        examples=len(labels),
        loss=loss,
        exact_match=wilson(int(np.sum(right.all(axis=1))), len(labels)),
        label_accuracy=bootstrap(np.mean(right, axis=1), seed=seed),
        per_class=_per_class(labels.astype("int64"), predicted, names),
    )


def classification(labels: Array, predicted: Array, *, names: Sequence[str], loss: float) -> Evaluation:
    """Accuracy, confusion matrix and per-class figures from true and predicted class indices `(n,)`."""
    indices = list(range(len(names)))
    return Evaluation(
        examples=len(labels),
        loss=loss,
        accuracy=wilson(int(np.sum(labels == predicted)), len(labels)),
        confusion_matrix=metrics.confusion_matrix(labels, predicted, labels=indices).tolist(),
        per_class=_per_class(labels, predicted, names),
    )


def _per_class(labels: Array, predicted: Array, names: Sequence[str]) -> dict[str, dict[str, float]]:
    indices = list(range(len(names)))
    columns = metrics.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0.0)
    return {
        name: {"precision": precision, "recall": recall, "f1": f1, "examples": examples}
        for name, precision, recall, f1, examples in zip(names, *(column.tolist() for column in columns), strict=True)
    }


def regression(labels: Array, outputs: Array, *, loss: float, seed: int) -> Evaluation:
    """Mean absolute error from true and predicted targets `(n, targets)`, in the units of the targets."""
    errors = np.mean(np.abs(labels.astype("float64") - outputs.astype("float64")), axis=-1)
    return Evaluation(examples=len(labels), loss=loss, mean_absolute_error=bootstrap(errors, seed=seed))


def wilson(successes: int, trials: int) -> Interval:
    """A proportion with its interval (Wilson, 1927)."""
    bounds = stats.binomtest(successes, trials).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Interval(value=successes / trials, low=float(bounds.low), high=float(bounds.high), method="wilson")


def bootstrap(values: Array, *, seed: int) -> Interval:
    """The mean of `values` `(n,)` with its percentile bootstrap interval; a single value is its own interval."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(value=mean, low=mean, high=mean, method="bootstrap")
    bounds = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=100,  # resamples held in memory at once
        method="percentile",  # BCa needs an n x n array
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value=mean, low=float(bounds.low), high=float(bounds.high), method="bootstrap")
