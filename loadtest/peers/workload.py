"""What every engine is asked to do, from the standard library alone: workers in any environment import this."""

from __future__ import annotations

import random
from dataclasses import dataclass

BATCHES = (1, 8, 16)  # sequences at once


@dataclass(frozen=True)
class Shape:
    """Sizes of the random GPT-2; the default is the flagship's 104.3M parameters."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    positions: int = 512
    vocabulary: int = 24_576


@dataclass(frozen=True)
class Workload:
    """Greedy, with no early end: every sequence reads ``prompt_tokens`` and writes ``new_tokens``."""

    prompt_tokens: int = 48
    new_tokens: int = 64
    threads: int = 2
    batches: tuple[int, ...] = BATCHES


def prompts(count: int, length: int, vocabulary: int, first: int, seed: int = 0) -> list[list[int]]:
    """Random token ids from ``first`` up, below which the control tokens lie: (count, length).

    A prompt depends on its place and the seed alone, so that 8 sequences are the first 8 of 16. Engines that
    keep a prefix cache find nothing in it as long as the seed is new.
    """
    return [_prompt(random.Random(f"{seed}/{place}"), length, vocabulary, first) for place in range(count)]


def _prompt(draw: random.Random, length: int, vocabulary: int, first: int) -> list[int]:
    return [draw.randrange(first, vocabulary) for _ in range(length)]
