"""Tokens that a model hardly ever has to write: it hardly learns to say them, even where its input has them.

What is never the next token is pushed down at every step. A word that is such a token is lost to answers, whatever the
input asks for; in pieces that other words have as well it is not. docs/experiments.md has how often a model says what
its input has, by how many outputs had the token.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer

from promptdial.tokenizer import PromptTokenizer

log = logging.getLogger(__name__)

AT_ONCE = 5000  # texts


def without_seldom(tokenizer: PromptTokenizer, texts: Sequence[str], least: int) -> PromptTokenizer:
    """A tokenizer that spells what stands in fewer than `least` of the texts by its parts; ids stay what they are.

    A token that a more frequent one is built of stays. The vocabulary keeps all entries: those that are left out are
    never the outcome of `encode`.
    """
    if not least:
        return tokenizer
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
    if len(kept) < len(merges):
        log.info("%d of %d tokens are spelt by their parts: fewer than %d outputs have them",
                 len(merges) - len(kept), len(merges), least)  # fmt: skip
    parts["model"]["merges"] = kept[::-1]
    return PromptTokenizer(Tokenizer.from_str(json.dumps(parts)), tokenizer.format)
