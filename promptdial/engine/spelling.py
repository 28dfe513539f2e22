"""Words are spelt as the model has learnt them: where a small model is unsure within a word, it makes one up.

An answer may hold the words of the bundle's list, which are those of what the model was trained on, and the words of
its own input. A token that leads to any other is not chosen. What is no letter, a digit or a hyphen, ends a word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> set[str]:
    """The words of a text, lower case: its runs of letters."""
    return set(WORD.findall(text.lower()))


@dataclass(frozen=True, slots=True)
class Spelling:
    """The words that may be written, sorted, and what each token of a vocabulary adds to a word.

    parts: the letters that a token goes on with, whether it then ends the word, and the letters that it begins the next
    with; None for a token that is no whole characters.
    """

    words: Sequence[str]
    tokens: Sequence[bytes]
    parts: Sequence[tuple[str, bool, str] | None]

    @classmethod
    def of(cls, tokens: Sequence[bytes], words: Iterable[str]) -> Spelling:
        """From what each id stands for; control tokens, which stand for nothing, end a word."""
        return cls(sorted(words), tokens, [_parts(token) for token in tokens])


class Speller:
    """The word that a text is at, and which tokens spell one that may be written."""

    __slots__ = ("_own", "_table", "_word")

    def __init__(self, table: Spelling, prompt: Iterable[int]) -> None:
        """``prompt`` is the ids of the input, whose words may be written too, and with an "s" behind them."""
        text = b"".join(table.tokens[token] for token in prompt).decode(errors="replace")
        own = words_of(text)
        self._table = table
        self._own = sorted(own | {f"{word}s" for word in own})
        self._word: str | None = ""  # letters since the last sign or space; None: it can't be told

    def add(self, token: int) -> None:
        """Note the text's next token."""
        parts = self._table.parts[token]
        if parts is None:
            self._word = None
            return
        goes_on, ends, begins = parts
        if ends:
            self._word = begins
        elif self._word is not None:
            self._word += goes_on

    def allows(self, token: int) -> bool:
        """Whether the text, with this token, holds words that may be written and a beginning of one."""
        parts = self._table.parts[token]
        if parts is None:
            return True
        goes_on, ends, begins = parts
        if self._word is not None:
            word = self._word + goes_on
            if word and not self._knows(word, whole=ends):
                return False
        return not begins or self._knows(begins, whole=False)

    def _knows(self, word: str, *, whole: bool) -> bool:
        return any(_has(words, word, whole=whole) for words in (self._table.words, self._own))


def _has(words: Sequence[str], word: str, *, whole: bool) -> bool:
    """Whether sorted words have this one, or, if it isn't whole, one that begins so."""
    place = bisect_left(words, word)
    return place < len(words) and (words[place] == word if whole else words[place].startswith(word))


def _parts(token: bytes) -> tuple[str, bool, str] | None:
    try:
        text = token.decode().lower()
    except UnicodeDecodeError:
        return None
    runs = list(WORD.finditer(text))
    first = runs[0].group() if runs and runs[0].start() == 0 else ""
    if text and len(first) == len(text):
        return text, False, ""
    last = runs[-1].group() if runs and runs[-1].end() == len(text) else ""
    return first, True, last
