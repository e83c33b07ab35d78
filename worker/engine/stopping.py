"""The best epoch of a phase, and early stopping: end a phase when the validation loss no longer falls."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.domain.base import Value
from app.domain.phases import EarlyStopping


class StoppingState(Value):
    """What early stopping remembers from one epoch to the next, but for the values of the best one."""

    best_loss: float | None
    """The lowest validation loss so far; `None` before the first."""
    waited: int
    """Epochs since then."""


class EarlyStop:
    """Watches one phase. The rules are those of `keras.callbacks.EarlyStopping` with `mode="min"`."""

    def __init__(self, options: EarlyStopping, variables: Mapping[str, Any]) -> None:
        """`variables`: all that training may move, so all that `restore` must bring back."""
        self._options = options
        self._variables = variables
        self._best_loss = math.inf
        self._best_values: dict[str, np.ndarray[Any, Any]] = {}
        self._waited = 0

    def note(self, val_loss: float) -> None:
        """Take note of an epoch."""
        if val_loss < self._best_loss - self._options.min_delta:
            self._best_loss = val_loss
            self._waited = 0
            if self._options.restore_best:
                self._best_values = {name: np.asarray(variable).copy() for name, variable in self._variables.items()}
        else:
            self._waited += 1

    @property
    def over(self) -> bool:
        """Whether the epoch that was noted last was the last one."""
        return self._waited >= self._options.patience

    @property
    def state(self) -> StoppingState:
        """To be kept when the run is interrupted, beside `best_values`."""
        return StoppingState(best_loss=self._best_loss if math.isfinite(self._best_loss) else None, waited=self._waited)

    @property
    def best_values(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """The variables as they were after the best epoch; empty before the first, and where nobody wants them."""
        return self._best_values

    def go_on_from(self, state: StoppingState, best_values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Remember again what was kept."""
        self._best_loss = math.inf if state.best_loss is None else state.best_loss
        self._waited = state.waited
        self._best_values = dict(best_values)

    def restore(self) -> None:
        """Give all variables the values of the best epoch, if that was asked for."""
        for name, value in self._best_values.items():
            self._variables[name].assign(value)


class BestEpoch:
    """Keeps the weights of a phase's epoch with the lowest validation loss; of equals the first."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        """`variables`: all that training may move."""
        self._variables = variables
        self._loss = math.inf
        self._values: dict[str, np.ndarray[Any, Any]] = {}

    @property
    def loss(self) -> float | None:
        """The lowest so far; `None` before the first epoch."""
        return self._loss if math.isfinite(self._loss) else None

    @property
    def values(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """The variables as they were then."""
        return self._values

    def go_on_from(self, loss: float | None, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Remember again what was kept."""
        self._loss = math.inf if loss is None else loss
        self._values = dict(values)

    def note(self, val_loss: float) -> None:
        """Take note of an epoch."""
        if val_loss < self._loss:
            self._loss = val_loss
            self._values = {name: np.asarray(variable).copy() for name, variable in self._variables.items()}

    def restore(self) -> None:
        """Give all variables the values of the best epoch."""
        for name, value in self._values.items():
            self._variables[name].assign(value)
