"""Tokens that a model hardly ever has to write: it can't learn to say them, and not even to repeat them from its input.

What is never the next token is pushed down at every step. A word that is such a token can't be said, whatever the
input asks for; in pieces that other words have as well it can. docs/experiments.md has how often a model that was
trained on 150,000 rows says what its input and the row have.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer

from promptdial.tokenizer import PromptTokenizer

AT_ONCE = 5000  # texts


def without_seldom(tokenizer: PromptTokenizer, texts: Sequence[str], least: int) -> PromptTokenizer:
    """A tokenizer that spells what stands in fewer than `least` of the texts by its parts; ids stay what they are.

    A token that a more frequent one is built of stays. The vocabulary keeps all entries: those that are left out are
    never the outcome of `encode`.
    """
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), AT_ONCE):
        for found in tokenizer.encode_batch(texts[start : start + AT_ONCE]):
            counts.update(set(found))
    parts = json.loads(tokenizer.to_text())
    ids, merges = parts["model"]["vocab"], parts["model"]["merges"]
    kept: list[list[str]] = []
    needed: set[str] = set()
    for left, right in reversed(merges):  # the last ones are built of those before
        if counts[ids[left + right]] >= least or left + right in needed:
            needed |= {left, right}
            kept.append([left, right])
    parts["model"]["merges"] = kept[::-1]
    return PromptTokenizer(Tokenizer.from_str(json.dumps(parts)), tokenizer.format)
