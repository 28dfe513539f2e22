"""Measures of texts that go next to relevance, since relevance alone is gamed by copying and by loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from training.rules import content_words, words

SPAN = 4
ORDERS = 4  # of n-grams in BLEU
SMOOTHING = 0.1  # matches that are counted where there are none (Chen and Cherry 2014, method 1)
ENDINGS = (".", "!", "?", "…")
CLOSING = "\"'”’)]*"

Grams = tuple[Counter[tuple[str, ...]], ...]  # by order, from 1


def copy_rate(input: str, output: str) -> float:
    """Longest run of input words in the output, divided by the output's words."""
    return longest_run(input, output) / max(1, len(words(output)))


def longest_run(input: str, output: str) -> int:
    """Words of the longest run of input words in the output."""
    return SequenceMatcher(None, words(input), words(output), autojunk=False).find_longest_match().size


def distinct_2(texts: Sequence[Sequence[str]]) -> float:
    """Different word pairs per word pair of texts given as words.

    The share falls with the number of pairs: only sets of equally many words compare.
    """
    pairs = [pair for text in texts for pair in pairwise(text)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def repetition(text: str) -> float:
    """Share of 4-word spans of a text that it has had before."""
    found = words(text)
    spans = [tuple(found[i : i + SPAN]) for i in range(len(found) - SPAN + 1)]
    return 1 - len(set(spans)) / len(spans) if spans else 0.0


def entity_recall(input: str, output: str) -> float:
    """Share of the input's content words that the output holds, singular or plural; nan for an input without any."""
    asked = {_singular(word) for word in content_words(input)}
    given = {_singular(word) for word in words(output)}
    return len(asked & given) / len(asked) if asked else math.nan


def _singular(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("’s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def ends_sentence(text: str) -> bool:
    """Whether the last sentence is whole, as far as its last sign tells."""
    return text.rstrip().rstrip(CLOSING).endswith(ENDINGS)


def grams(text: Sequence[str]) -> Grams:
    """Counts of the word sequences of 1 to 4 words."""
    return tuple(
        Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
        for order in range(1, ORDERS + 1)
    )


def self_bleu(texts: Sequence[Grams]) -> float:
    """Mean BLEU-4 of each text against all the others (Zhu et al. 2018): 1 where all say the same.

    It grows with the number of texts and with their length: only sets of equal size compare. Orders that a text is
    too short for are left out of it.
    """
    if len(texts) < 2:
        return 0.0
    most = [_two_largest(text[order] for text in texts) for order in range(ORDERS)]
    lengths = [text[0].total() for text in texts]
    scores = [_bleu(text, own, most, lengths) for own, text in enumerate(texts)]
    return sum(scores) / len(scores)


Largest = dict[tuple[str, ...], tuple[int, int, int]]


def _two_largest(counters: Iterable[Counter[tuple[str, ...]]]) -> Largest:
    """Per sequence: its largest count in one text, whose, and the largest in any other text."""
    largest: Largest = {}
    for owner, counter in enumerate(counters):
        for gram, count in counter.items():
            first, whose, second = largest.get(gram, (0, -1, 0))
            if count > first:
                largest[gram] = (count, owner, first)
            elif count > second:
                largest[gram] = (first, whose, count)
    return largest


def _bleu(text: Grams, own: int, most: Sequence[Largest], lengths: Sequence[int]) -> float:
    logs = []
    for order, counter in enumerate(text):
        if not (total := counter.total()):
            continue
        matched = 0
        for gram, count in counter.items():
            first, whose, second = most[order][gram]
            matched += min(count, second if whose == own else first)
        logs.append(math.log((matched or SMOOTHING) / total))
    if not logs:
        return 0.0
    length = lengths[own]
    closest = min(
        (other for index, other in enumerate(lengths) if index != own), key=lambda n: (abs(n - length), n)
    )
    return math.exp(sum(logs) / len(logs)) * min(1.0, math.exp(1 - closest / length))
