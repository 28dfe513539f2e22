"""Checkpoint to bundle: the decoder as one ONNX graph, the scorer, their checks, and ``bundle.json``."""
