"""Choosing the next token from the top logits of each row, with draws that belong to the row alone.

A draw is a pure function of (seed, candidate, step): a hash, no generator with a state. So a candidate's
text is the same alone and in any batch, as long as its logits are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MASK = (1 << 64) - 1
MAX_TOP_K = 64  # what the decoder's graph gives
COLDEST = 1e-6  # temperatures below are as good as greedy, and would overflow


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose: temperature 0 is greedy; the ``top_k`` likeliest, then of these the ``top_p`` share."""

    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 40


def uniform(seed: int, candidate: int, step: int) -> float:
    """A number in [0, 1) with 53 random bits (SplitMix64, chained over the three arguments)."""
    state = 0
    for part in (seed, candidate, step):
        state = _mix((state + (part & MASK) + 0x9E3779B97F4A7C15) & MASK)
    return (state >> 11) / (1 << 53)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def choose(
    logits: NDArray[np.float32], ids: NDArray[np.int64], sampling: Sequence[Sampling], draws: Sequence[float]
) -> list[int]:
    """One token id for each row; ``logits`` and ``ids`` are (rows, top), in falling order of the logit."""
    if all(row.temperature == 0.0 for row in sampling):
        return [int(token) for token in ids[:, 0]]
    temperature = np.array([[max(row.temperature, COLDEST)] for row in sampling])
    top_k = np.array([[1 if row.temperature == 0.0 else row.top_k] for row in sampling])
    top_p = np.array([[row.top_p] for row in sampling])
    scaled = (logits.astype(np.float64) - logits[:, :1]) / temperature
    weights = np.exp(scaled) * (np.arange(logits.shape[1]) < top_k)  # (rows, top)
    below = np.cumsum(weights, axis=1) - weights  # what the likelier tokens hold
    weights *= below < top_p * weights.sum(axis=1, keepdims=True)
    reached = np.cumsum(weights, axis=1)
    target = np.array(draws)[:, None] * reached[:, -1:]
    places = np.minimum((reached <= target).sum(axis=1), np.count_nonzero(weights, axis=1) - 1)
    return [int(row[place]) for row, place in zip(ids, places, strict=True)]
