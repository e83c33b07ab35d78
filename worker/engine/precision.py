"""What layers compute in: float32, or half the bits while weights stay float32 (Micikevicius et al., 2018).

    source (float32) ─ clone, policy `mixed_…` ─▶ network that trains ─ clone, policy float32 ─▶ result

Layers with another policy than these (float64, quantized ones) are left alone, and so are those that scale raw
examples, which need all digits. Output layers stay float32. Evaluation and export see the float32 clone alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import keras

from app.domain.spec import Spec

Precision = Literal["off", "bfloat16", "float16"]

_SCALING = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Resizing)
_PLAIN = "float32"


def policy_name(precision: Precision) -> str:
    """Of the dtype policy of layers that train."""
    return _PLAIN if precision == "off" else f"mixed_{precision}"


def scales_losses(spec: Spec) -> bool:
    """Whether gradients would vanish: float16 has five bits for exponents, bfloat16 as many as float32."""
    return spec.mixed_precision == "float16"


@contextmanager
def default_policy(precision: Precision) -> Iterator[None]:
    """New layers that say nothing else get this policy; the process's own comes back afterwards."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy_name(precision))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def converted(layer: Any, config: Mapping[str, Any], policy: str) -> dict[str, Any]:  # noqa: ANN401 (Keras)
    """The config of a layer, with the policy in it and in what it wraps; of a nameless operation as it is."""
    if isinstance(layer, _SCALING) or not isinstance(layer, keras.Layer):
        return dict(config)
    return {key: _converted(key, value, policy) for key, value in config.items()}


def _converted(key: str, value: Any, policy: str) -> Any:  # noqa: ANN401 (JSON)
    if key == "dtype" and _name(value) in (_PLAIN, "mixed_bfloat16", "mixed_float16"):
        return policy
    if isinstance(value, Mapping):
        return {inner: _converted(inner, item, policy) for inner, item in value.items()}
    return value


def _name(policy: Any) -> Any:  # noqa: ANN401 (JSON)
    return policy.get("config", {}).get("name") if isinstance(policy, Mapping) else policy
