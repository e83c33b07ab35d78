"""Exports: the result as a model that takes raw examples, in the formats that people deploy.

    trained model ─exported▶ raw examples in ─write▶ model.keras ─make_exports▶ SavedModel, LiteRT, ONNX

What is written is read back and compared: `model.keras` with the trained model, everything else with `model.keras`.
"""

from worker.engine.export.inputs import inputs_of
from worker.engine.export.keras_file import exported, write
from worker.engine.export.process import make_exports

__all__ = ["exported", "inputs_of", "make_exports", "write"]
