"""A candidate's text, whole or piece by piece as its tokens come: the pieces joined are the whole text.

A token may end amid a character, and a text loses its outer white space and the half character at which it
was cut off. So a piece holds back what may still turn out to be the end.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from promptdial.tokenizer import PromptTokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def whole_text(tokenizer: PromptTokenizer, ids: Sequence[int]) -> str:
    """Text of one candidate."""
    return without_end(tokenizer.decode(ids))


def without_end(text: str) -> str:
    """A text without white space and half a character at its end."""
    return text.rstrip().rstrip(REPLACEMENT).rstrip()


class TextPieces:
    """Turns one candidate's token ids into pieces of its text. `token_bytes` is the tokenizer's table."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._held = ""  # white space and replacement characters, which go if nothing follows

    def add(self, token_id: int) -> str:
        """What the text is sure to go on with; often the token, sometimes nothing."""
        text = self._unsure(self._decoder.decode(self._token_bytes[token_id]))
        sure = len(text)
        while sure and (text[sure - 1] == REPLACEMENT or text[sure - 1].isspace()):
            sure -= 1
        self._held = text[sure:]
        self._begun = self._begun or sure > 0
        return text[:sure]

    def end(self) -> str:
        """What is left when no token follows."""
        return without_end(self._unsure(self._decoder.decode(b"", final=True)))

    def _unsure(self, text: str) -> str:
        text = self._held + text
        return text if self._begun else text.lstrip()
