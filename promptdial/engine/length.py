"""Keeping an answer to the number of words that was asked for, at its sentence ends.

The length in the command says where a text is to end; a small model meets it only roughly. UDRL would state what is
left again as the text grows, which takes tokens in every training row. Counting does without them: a text can't end
before it is long enough, and ends with the sentence after which another would lead farther away. Nothing is cut.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

SENTENCE = 12.0  # words of a text's next sentence, where it has none yet
_CLOSING = (b".", b"!", b"?")
_ALPHANUMERIC = re.compile(rb"[0-9A-Za-z]").search
_QUOTES = "\"'”’)".encode()


@dataclass(frozen=True, slots=True)
class Words:
    """What each token of a vocabulary does to words: whether it begins one, whether it ends a sentence, whether it is
    signs alone, and so no part of one.

    alike: the ids that are the same but for capitals, of those that begin a word; of any other, itself.
    """

    begins: Sequence[bool]
    closes: Sequence[bool]
    signs: Sequence[bool]
    alike: Sequence[Sequence[int]]

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> Words:
        """From what each id stands for; a word begins with a space, as `word_count` has it."""
        begins = [token[:1].isspace() and bool(token.strip()) for token in tokens]
        groups: dict[bytes, list[int]] = defaultdict(list)
        for token_id, token in enumerate(tokens):
            groups[token.lower()].append(token_id)
        return cls(
            begins,
            [token.rstrip(_QUOTES).endswith(_CLOSING) for token in tokens],
            [token.isascii() and not _ALPHANUMERIC(token) for token in tokens],
            [
                groups[token.lower()] if begin else (token_id,)
                for token_id, (token, begin) in enumerate(zip(tokens, begins, strict=True))
            ],
        )


class Pace:
    """How long a text is, and whether it may or has to end, for a wanted number of words."""

    __slots__ = ("_closed", "_least", "_sentences", "_table", "_wanted", "_words")

    def __init__(self, wanted: int, tolerance: float, table: Words) -> None:
        self._wanted, self._least, self._table = wanted, wanted * (1 - tolerance), table
        self._words = self._sentences = 0
        self._closed = False

    def add(self, token: int) -> None:
        """Note the text's next token."""
        self._words += self._table.begins[token] or not self._words
        self._closed = self._table.closes[token]
        self._sentences += self._closed

    @property
    def may_end(self) -> bool:
        """Whether the text is long enough."""
        return self._words >= self._least

    @property
    def must_end(self) -> bool:
        """Whether it is, at the end of a sentence, and another one of its usual length would lead farther away."""
        if not self._closed or not self.may_end:
            return False
        usual = self._words / self._sentences if self._sentences else SENTENCE
        return self._wanted - self._words <= usual / 2
