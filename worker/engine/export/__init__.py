"""Exports: the result as a model that takes raw examples, in the formats that people deploy.

    trained model ─exported▶ raw examples in ─write▶ model.keras ─make_exports▶ SavedModel, LiteRT, ONNX

What is written is read back and compared: `model.keras` with the trained model, everything else with `model.keras`.
Nothing is imported here: the converting process ties itself to its parent before it loads TensorFlow, for seconds.
"""
