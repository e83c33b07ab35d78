"""Seeds for everything random in a model, derived from the job's seed and the name of what draws.

Keras draws a seed by itself where a layer or initializer has none, from the process's global state, so that
one more layer anywhere changes all the others. A seed from the name stays put.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

INITIALIZERS = "keras.initializers"


def derive(seed: int, *names: str) -> int:
    """A seed in `[0, 2**31)` that depends on nothing but the job's seed and the names."""
    text = "/".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF


def seeded(config: Mapping[str, Any], *, seed: int, name: str, initializers: bool) -> dict[str, Any]:
    """A layer's config with a seed wherever it says `"seed": null`; those of initializers only if asked for."""
    return {key: _seeded(key, value, seed, f"{name}.{key}", initializers) for key, value in config.items()}


def _seeded(key: str, value: Any, seed: int, name: str, initializers: bool) -> Any:  # noqa: ANN401, FBT001 (JSON; private)
    if key == "seed" and value is None:
        return derive(seed, name)
    if isinstance(value, Mapping):
        if value.get("module") == INITIALIZERS and not initializers:
            return value
        return {inner: _seeded(inner, item, seed, f"{name}.{inner}", initializers) for inner, item in value.items()}
    if isinstance(value, list):
        return [_seeded("", item, seed, f"{name}.{index}", initializers) for index, item in enumerate(value)]
    return value
