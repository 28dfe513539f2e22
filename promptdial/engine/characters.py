"""A character that was begun is finished: one of several bytes may take several tokens, and a text that goes on with
another letter after the first of them could not be read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utf8:
    """What each token of a vocabulary does to characters of several bytes.

    missing: bytes that the token's last character lacks; of a token of nothing but a character's later bytes, their
    number with a minus. outside: the ids that begin with anything else.
    """

    missing: Sequence[int]
    outside: Collection[int]

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> Utf8:
        """From what each id stands for."""
        outside = frozenset(i for i, token in enumerate(tokens) if not token or not _is_later(token[0]))
        return cls([_missing(token) for token in tokens], outside)


class Characters:
    """Whether a text has come to the end of a character."""

    __slots__ = ("_missing", "_table")

    def __init__(self, table: Utf8) -> None:
        self._table, self._missing = table, 0

    def add(self, token: int) -> None:
        """Note the text's next token."""
        missing = self._table.missing[token]
        self._missing = missing if missing >= 0 else max(0, self._missing + missing)

    @property
    def barred(self) -> Collection[int]:
        """Token ids that would break a character off."""
        return self._table.outside if self._missing else ()


def _is_later(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _missing(token: bytes) -> int:
    later = 0
    for byte in reversed(token):
        if not _is_later(byte):
            # Of 110xxxxx two bytes in all, of 1110xxxx three, of 11110xxx four.
            size = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
            return max(0, size - 1 - later)
        later += 1
    return -later
