"""int8 weights, in the two layouts that the graphs use.

* per channel: symmetric int8, one scale per output channel (the scorer's ``MatMulIntegerToFloat``);
* per block: uint8 around 128, one scale per 128 inputs of an output channel (the decoder's ``MatMulNBits``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ZERO_POINT = 128  # MatMulNBits' for 8 bits
STEPS = 127.0
LEAST_SCALE = 1e-12  # for rows of zeros


def quantize_channels(weight: Floats, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 with one scale along ``axis``; the scales keep that axis with size 1."""
    scales = np.maximum(np.abs(weight).max(axis=axis, keepdims=True) / STEPS, LEAST_SCALE).astype(np.float32)
    return np.clip(np.round(weight / scales), -STEPS, STEPS).astype(np.int8), scales


def quantize_blocks(weight: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """(out, in) to bytes (out, in / block, block) and scales (out, in / block)."""
    blocks = weight.reshape(weight.shape[0], -1, block)
    scales = np.maximum(np.abs(blocks).max(axis=-1) / STEPS, LEAST_SCALE).astype(np.float32)
    whole = np.clip(np.round(blocks / scales[..., None]), -STEPS, STEPS)
    return (whole + ZERO_POINT).astype(np.uint8), scales


def dequantize_blocks(table: NDArray[np.uint8], scales: Floats) -> Floats:
    """The inverse of ``quantize_blocks``: (out, in)."""
    whole = table.astype(np.float32) - ZERO_POINT
    return (whole * scales.reshape(*table.shape[:2], 1)).reshape(table.shape[0], -1)


def block_size(width: int) -> int | None:
    """The largest of 128, 64 and 32 that divides ``width``."""
    return next((size for size in (128, 64, 32) if width % size == 0), None)
