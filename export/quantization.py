"""Quantized weights, in the layouts that the graphs use.

* per channel: symmetric int8, one scale per output channel, for ``MatMulIntegerToFloat``;
* per block: symmetric 4 bits, two to a byte, one scale per block of inputs of an output channel, for
  ``MatMulNBits``.

x86-64 CPUs without VNNI multiply bytes in pairs and add each pair in 16 bits, which clips at 32,767: an
activation of 255 next to another overflows as soon as two neighbouring weights of one sign add up to more
than 128. ``quantize_channels`` chooses its scales such that no pair does. Results are then the same integers
on every CPU, at a price of about 0.4 bits of the weights' resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
STEPS = 127.0
PAIR_STEPS = 127.0  # 128 less what rounding may add
LEAST_SCALE = 1e-12  # for channels of zeros
ZERO_POINT_4 = 8  # MatMulNBits' for 4 bits
SHRINKS = np.linspace(1.0, 0.7, 13)  # of a block's largest weight: clipping it a little can lose less


def quantize_rows(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """A lookup table (rows, width) to int8 and scales (rows, 1); for no product, so pairs don't matter."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / STEPS, LEAST_SCALE).astype(np.float32)
    return np.clip(np.round(table / scales), -STEPS, STEPS).astype(np.int8), scales


def quantize_channels(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(in, out) to int8 of that shape and one scale for each output."""
    pairs = weight[: len(weight) // 2 * 2].reshape(-1, 2, weight.shape[1])
    same_sign = [np.maximum(sign * pairs, 0).sum(axis=1).max(axis=0, initial=0.0) for sign in (1, -1)]
    largest = np.maximum(np.abs(weight).max(axis=0) / STEPS, np.maximum(*same_sign) / PAIR_STEPS)
    scales = np.maximum(largest, LEAST_SCALE).astype(np.float32)
    return np.clip(np.round(weight / scales), -STEPS, STEPS).astype(np.int8), scales


def quantize_blocks(weight: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """(out, in) to packed bytes (out, in / block, block / 2) and scales (out, in / block)."""
    blocks = weight.reshape(weight.shape[0], -1, block)
    # The value of largest size becomes -8 times the scale: the range is -8..7.
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    best = np.full(blocks.shape[:2], np.inf)
    scales = np.zeros((*blocks.shape[:2], 1), np.float32)
    for shrink in SHRINKS:
        tried = -extreme * shrink / 8
        tried = np.where(np.abs(tried) < LEAST_SCALE, LEAST_SCALE, tried).astype(np.float32)
        error = ((np.clip(np.round(blocks / tried), -8, 7) * tried - blocks) ** 2).sum(axis=-1)
        better = error < best
        best = np.where(better, error, best)
        scales[better] = tried[better]
    whole = (np.clip(np.round(blocks / scales), -8, 7) + ZERO_POINT_4).astype(np.uint8)
    packed = whole[..., 0::2] | whole[..., 1::2] << np.uint8(4)
    return np.asarray(packed, np.uint8), scales[..., 0]


def dequantize_blocks(table: NDArray[np.uint8], scales: Floats) -> Floats:
    """The inverse of ``quantize_blocks``: (out, in)."""
    whole = np.stack([table & 15, table >> 4], axis=-1).astype(np.float32) - ZERO_POINT_4
    return (whole.reshape(*table.shape[:2], -1) * scales.reshape(*table.shape[:2], 1)).reshape(len(table), -1)


def block_size(width: int) -> int | None:
    """The largest of 64 and 32 that divides ``width``."""
    return next((size for size in (64, 32) if width % size == 0), None)
