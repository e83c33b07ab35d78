"""The metrics of an epoch, added up over its batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worker.engine.steps import Sums


class NotFiniteError(ArithmeticError):
    """The loss of a step is NaN or infinite, or weights are after it; `step` counts from 1."""

    def __init__(self, step: int, loss: float | None = None, *, weights: str | None = None) -> None:
        """`weights`: the name of an array that is not finite, although the loss was."""
        self.what = f"the loss became {loss}" if weights is None else f"numbers in '{weights}' became NaN or infinite"
        super().__init__(f"{self.what} at step {step}")
        self.step = step


class Totals:
    """Adds up `Sums`, each when the next one comes: a GPU is never waited for while it could compute."""

    def __init__(self) -> None:
        self._pending: Sums | None = None
        self._total: np.ndarray[Any, Any] = np.zeros(3, "float64")
        self._steps = 0

    def add(self, sums: Sums) -> None:
        """Note a step `(3,)` or several `(n, 3)`. Raises `NotFiniteError` if one before them diverged."""
        self._settle()
        self._pending = sums

    def state(self) -> tuple[list[float], int]:
        """The sums and the steps so far, to go on from. Raises `NotFiniteError`."""
        self._settle()
        return self._total.tolist(), self._steps

    def go_on_from(self, sums: Sequence[float], steps: int) -> None:
        """Begin with what `state` told."""
        self._total, self._steps = np.array(sums, "float64"), steps

    def metrics(self, metric: str) -> dict[str, float]:
        """Means over all examples: `loss`, and the metric under its name. Raises `NotFiniteError`."""
        self._settle()
        loss, score, examples = self._total.tolist()
        return {"loss": loss / examples, metric: score / examples}

    def _settle(self) -> None:
        if self._pending is None:
            return
        steps = np.asarray(self._pending, "float64").reshape(-1, 3)
        self._pending = None
        for values in steps:  # one by one: sums must not depend on how many steps went at once
            self._steps += 1
            if not np.isfinite(values).all():
                raise NotFiniteError(self._steps, float(values[0] / values[2]))
            self._total += values
