"""Measures of texts that go next to relevance, since relevance alone is gamed by copying and by loops."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from training.rules import words

SPAN = 4


def copy_rate(input: str, output: str) -> float:
    """Longest run of input words in the output, divided by the output's words."""
    asked, given = words(input), words(output)
    if not given:
        return 0.0
    longest = SequenceMatcher(None, asked, given, autojunk=False).find_longest_match()
    return longest.size / len(given)


def distinct_2(texts: Sequence[str], budget: int) -> float:
    """Different word pairs per word pair, over the first `budget` pairs of the texts in order.

    The share falls with the number of pairs, so only values at an equal budget compare.
    """
    pairs = [pair for text in texts for pair in pairwise(words(text))][:budget]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def pair_count(texts: Sequence[str]) -> int:
    """Word pairs of the texts, none across two texts."""
    return sum(max(0, len(words(text)) - 1) for text in texts)


def repetition(text: str) -> float:
    """Share of 4-word spans of a text that it has had before."""
    found = words(text)
    spans = [tuple(found[i : i + SPAN]) for i in range(len(found) - SPAN + 1)]
    return 1 - len(set(spans)) / len(spans) if spans else 0.0
