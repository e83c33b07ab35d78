"""The best epoch of a phase, and early stopping: end a phase when the validation loss no longer falls."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.domain.phases import EarlyStopping


class EarlyStop:
    """Watches one phase. The rules are those of `keras.callbacks.EarlyStopping` with `mode="min"`."""

    def __init__(self, options: EarlyStopping, variables: Mapping[str, Any]) -> None:
        """`variables`: all that training may move, so all that `restore` must bring back."""
        self._options = options
        self._variables = variables
        self._best_loss = math.inf
        self._best_values: dict[str, np.ndarray[Any, Any]] = {}
        self._waited = 0

    def stops_after(self, val_loss: float) -> bool:
        """Take note of an epoch; whether it was the last one."""
        if val_loss < self._best_loss - self._options.min_delta:
            self._best_loss = val_loss
            self._waited = 0
            if self._options.restore_best:
                self._best_values = {name: np.asarray(variable).copy() for name, variable in self._variables.items()}
            return False
        self._waited += 1
        return self._waited >= self._options.patience

    def restore(self) -> None:
        """Give all variables the values of the best epoch, if that was asked for."""
        for name, value in self._best_values.items():
            self._variables[name].assign(value)


class BestEpoch:
    """Keeps the weights of a phase's epoch with the lowest validation loss; of equals the first."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        """`variables`: all that training may move."""
        self._variables = variables
        self.loss = math.inf
        """The lowest so far."""
        self.values: dict[str, np.ndarray[Any, Any]] = {}
        """What the variables were after its epoch."""

    def note(self, val_loss: float) -> None:
        """Take note of an epoch."""
        if val_loss < self.loss:
            self.loss = val_loss
            self.values = {name: np.asarray(variable).copy() for name, variable in self._variables.items()}

    def restore(self) -> None:
        """Give all variables the values of the best epoch."""
        for name, value in self.values.items():
            self._variables[name].assign(value)
