"""Words are spelt as the model has learnt them: where a small model is unsure within a word, it makes one up.

An answer may hold the words of the bundle's list, which are those of what the model was trained on, and the words of
its own input. A token that leads to any other is not chosen. Anything but a letter ends a word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+")
# Stands for a part of a letter of several bytes, as all letters but ASCII are; it sorts behind ASCII.
PART = "\x80"
_RUN = re.compile(rf"(?:[^\W\d_]|{PART})+")
# Undecodable bytes: those of signs, as all characters of three bytes or more count here, and those of letters.
_SIGN_PARTS, _LETTER_PARTS = re.compile("[\udce0-\udcff][\udc80-\udcbf]*"), re.compile("[\udc80-\udcdf]+")


def words_of(text: str) -> set[str]:
    """The words of a text, lower case: its runs of letters."""
    return set(_WORD.findall(text.lower()))


@dataclass(frozen=True, slots=True)
class Spelling:
    """The words that may be written, sorted, and what each token of a vocabulary adds to a word.

    parts: the letters that a token goes on with, whether it then ends the word, and the letters that it begins the next
    one with. letters: the tokens that are small letters and nothing else, by these.
    """

    words: Sequence[str]
    tokens: Sequence[bytes]
    parts: Sequence[tuple[str, bool, str]]
    letters: Mapping[str, int]

    @classmethod
    def of(cls, tokens: Sequence[bytes], words: Iterable[str]) -> Spelling:
        """From what each id stands for; control tokens, which stand for nothing, end a word."""
        letters = {
            token.decode(): number
            for number, token in enumerate(tokens)
            if token.isascii() and token.isalpha() and token.islower()
        }
        return cls(sorted(words), tokens, [_parts(token) for token in tokens], letters)

    def words_in(self, prompt: Iterable[int]) -> Sequence[str]:
        """The words of an input, from its ids, and each with an "s" behind it; sorted."""
        own = words_of(b"".join(self.tokens[token] for token in prompt).decode(errors="replace"))
        return sorted(own | {f"{word}s" for word in own})


class Speller:
    """The word that a text is at, and which tokens spell one that may be written."""

    __slots__ = ("_allowed", "_table", "_word", "_words")

    def __init__(self, table: Spelling, own: Sequence[str]) -> None:
        """``own``: words that may be written besides the table's, sorted."""
        self._table, self._words = table, (table.words, own)
        # Letters since the last sign or space. None: up to the next one, anything may come; a letter is not whole, or
        # the word is none that may be written, since no token that would spell one could be had.
        self._word: str | None = ""
        self._allowed = -1  # the token that was found to be allowed last: it needs no second look

    def add(self, token: int) -> None:
        """Note the text's next token."""
        goes_on, ends, begins = self._table.parts[token]
        word = begins if ends else None if self._word is None else self._word + goes_on
        known = token == self._allowed or not word or self._knows(word, whole=False)
        self._word, self._allowed = None if word and (PART in word or not known) else word, -1

    def allows(self, token: int) -> bool:
        """Whether the text, with this token, holds words that may be written and a beginning of one."""
        goes_on, ends, begins = self._table.parts[token]
        if self._word is not None:
            word = self._word + goes_on
            if word and not self._knows(word, whole=ends):
                return False
        if begins and not self._knows(begins, whole=False):
            return False
        self._allowed = token
        return True

    def going_on(self) -> int | None:
        """A token that goes on with the word as one of the input does, or else one of the table; None if none does."""
        word, letters = self._word or "", self._table.letters
        for words in reversed(self._words) if word else ():
            place = bisect_left(words, word)
            place += place < len(words) and words[place] == word
            if place < len(words) and words[place].startswith(word):
                rest = words[place][len(word) :]
                return next((letters[rest[:n]] for n in range(len(rest), 0, -1) if rest[:n] in letters), None)
        return None

    def _knows(self, word: str, *, whole: bool) -> bool:
        if PART in word:  # of the letter that is not whole it is only known that it isn't ASCII
            word, whole = word[: word.index(PART) + 1], False
            if word == PART:
                return True
        return any(_has(words, word, whole=whole) for words in self._words)


def _has(words: Sequence[str], word: str, *, whole: bool) -> bool:
    """Whether sorted words have this one, or, if it isn't whole, one that begins so."""
    place = bisect_left(words, word)
    if place == len(words):
        return False
    return words[place] == word if whole else words[place].startswith(word.removesuffix(PART))


def _parts(token: bytes) -> tuple[str, bool, str]:
    text = token.decode(errors="surrogateescape").lower()
    text = _LETTER_PARTS.sub(PART, _SIGN_PARTS.sub(f"-{PART}", text))
    runs = list(_RUN.finditer(text))
    first = runs[0].group() if runs and runs[0].start() == 0 else ""
    if text and len(first) == len(text):
        return text, False, ""
    last = runs[-1].group() if runs and runs[-1].end() == len(text) else ""
    return first, True, last
