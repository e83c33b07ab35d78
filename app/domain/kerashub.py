"""Presets of KerasHub: backbones with the weights that Keras' own people publish for them.

    keras_hub:resnet_18_imagenet[@version]

The worker's KerasHub knows which presets there are, and which version of each it was released with; `@version` names
another one. Whoever registers such a name notes the version that it was: `SourceInfo.origin`.
"""

import re

from app.domain.base import Value
from app.domain.errors import UserError

PREFIX = "keras_hub:"

_NAME = re.compile(
    rf"{PREFIX}(?P<preset>[A-Za-z0-9][A-Za-z0-9_.-]{{0,95}})(?:@(?P<version>[1-9][0-9]{{0,5}}))?", re.ASCII
)


class PresetName(Value):
    """A preset, as it is named; `str()` gives the shortest spelling."""

    preset: str
    version: int | None = None
    """Of its files on Kaggle; `None`: the one that the worker's KerasHub was released with."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.preset}" + (f"@{self.version}" if self.version else "")


def is_name(text: str) -> bool:
    """Whether a text means a preset of KerasHub, well spelled or not."""
    return text.startswith(PREFIX)


def parse(text: str) -> PresetName:
    """Take a name apart. Raises `UserError` that says how names are spelled."""
    found = _NAME.fullmatch(text)
    if found is None:
        message = (
            f"A preset of KerasHub is named {PREFIX}preset[@version], such as {PREFIX}resnet_18_imagenet@3; received "
            f"'{text[:200]}'. Only presets that KerasHub itself knows are taken, no handles and no folders."
        )
        raise UserError(message, code="wrong_name", param="model")
    return PresetName(preset=found["preset"], version=int(found["version"]) if found["version"] else None)
