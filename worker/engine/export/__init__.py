"""Exports: the result as a model that takes raw examples, in the formats that people deploy.

trained model -exported-> raw examples in -write-> model.keras
"""

from worker.engine.export.keras_file import exported, write

__all__ = ["exported", "write"]
