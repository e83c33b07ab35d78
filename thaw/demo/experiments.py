"""The experiments: which data, which jobs.

Both jobs of an experiment have the same architecture, training images, batch size, number of epochs and kind of
optimizer. The learning rates are the best for each on validation images, averaged over ten draws or more that are
not those of the seeds used here: three for each phase of the transfer, seven for the baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thaw.requests import Rescale

DEFAULT_SEEDS = (42,)
FROZEN_EPOCHS, UNFROZEN_EPOCHS = 4, 16


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent, as jobs take it."""

    learning_rate: float
    momentum: float = 0.0

    def __str__(self) -> str:
        return f"SGD {self.learning_rate:g}" + (f" with momentum {self.momentum:g}" if self.momentum else "")

    def spec(self) -> Mapping[str, Any]:
        """The `optimizer` of a phase."""
        return {"type": "sgd", "learning_rate": self.learning_rate, "momentum": self.momentum}


@dataclass(frozen=True)
class Experiment:
    """One comparison of transfer with training from scratch."""

    title: str
    script: str
    """In `scripts/`; trains the source and draws the new examples."""
    source: str
    """What the source is, in words."""
    target: str
    batch_size: int
    frozen: Sgd
    """Of the first phase, in which the head alone trains."""
    unfrozen: Sgd
    scratch: Sgd
    """Of the baseline."""
    rescale: Rescale = field(default="none")

    def transferred(self) -> Mapping[str, Any]:
        """The job that starts from the source."""
        schedule = [
            {"name": "head", "unfreeze": "none", "epochs": FROZEN_EPOCHS, "optimizer": self.frozen.spec()},
            {"name": "all", "unfreeze": "all", "epochs": UNFROZEN_EPOCHS, "optimizer": self.unfrozen.spec()},
        ]
        return self._job(schedule, weights="source")

    def from_scratch(self) -> Mapping[str, Any]:
        """The baseline: new weights, and all of them train in every epoch."""
        epochs = FROZEN_EPOCHS + UNFROZEN_EPOCHS
        phase = {"name": "scratch", "unfreeze": "all", "epochs": epochs, "optimizer": self.scratch.spec()}
        return self._job([phase], weights="random")

    def _job(self, schedule: Sequence[Mapping[str, Any]], *, weights: str) -> Mapping[str, Any]:
        return {
            "cut": {"drop_last": 1},
            "schedule": schedule,
            "batch_size": self.batch_size,
            "backbone_weights": weights,
        }


EXPERIMENTS: Mapping[str, Experiment] = {
    "digits": Experiment(
        title="Handwritten digits 8 and 9",
        script="train_digits.py",
        source="a small convolutional network, trained on the digits 0 to 7",
        target="the digits 8 and 9",
        batch_size=10,
        frozen=Sgd(0.03, 0.9),
        unfrozen=Sgd(0.01, 0.9),
        scratch=Sgd(0.05, 0.9),
    ),
    "fashion_mnist": Experiment(
        title="Fashion-MNIST: sandals and shirts",
        script="train_fashion_mnist.py",
        source="an MLP 300-100-50-50-50, trained on the eight other classes",
        target="sandals and shirts",
        batch_size=32,
        frozen=Sgd(0.1),
        unfrozen=Sgd(0.01),
        scratch=Sgd(0.03),
        rescale="zero_to_one",
    ),
}
