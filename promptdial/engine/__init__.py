"""The decoding engine: token ids and arrays in, token ids out; no strings, HTTP or asyncio.

``decoder`` (ONNX session and KV cache), ``sampling``, ``scheduler`` (who runs), ``engine`` (the loop).
"""

from promptdial.engine.engine import Engine, Stats
from promptdial.engine.request import (
    Done,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generation,
    GenerationRequest,
    GenerationResult,
    Timing,
    Token,
)
from promptdial.engine.sampling import MAX_TOP_K, Sampling
from promptdial.engine.threads import available_cpus

__all__ = [
    "MAX_TOP_K",
    "Done",
    "Engine",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationRequest",
    "GenerationResult",
    "Sampling",
    "Stats",
    "Timing",
    "Token",
    "available_cpus",
]
