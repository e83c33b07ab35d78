"""Names for new layers beside those that a model has."""

import itertools
from collections.abc import Iterable


class Names:
    """Names that no layer has yet: `head_dense`, `head_dense_2`, …."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, wish: str) -> str:
        """`wish`, or with the first number that makes it new; it is taken from now on."""
        numbered = (f"{wish}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([wish], numbered) if name not in self._taken)
        self._taken.add(name)
        return name
