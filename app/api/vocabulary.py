"""The names that a spec may use, read from the domain's own types."""

from typing import Final, get_args

from app.domain.head import HeadLayer
from app.domain.learning_rates import LearningRateSchedule
from app.domain.optimizers import Optimizer
from app.domain.presets import Preset


def _type_names(union: object, key: str = "type") -> list[str]:
    """What `key` may be in a union whose members are told apart by it."""
    members = get_args(get_args(union)[0])
    return [name for member in members for name in get_args(member.model_fields[key].annotation)]


OPTIMIZERS: Final = _type_names(Optimizer)
SCHEDULES: Final = _type_names(LearningRateSchedule)
PRESETS: Final = _type_names(Preset, "preset")
HEAD_LAYERS: Final = _type_names(HeadLayer)
