"""Sentences that hold together, told by the words that stand side by side in what a model was trained on.

A small model that knows many sentences goes over from one to another where they share a word ("small waves travel
across the city can be seen"). So the bundle knows what three words and signs stand side by side in its rows. A sentence
is strange that has others, or that says a word twice; the engine draws it anew (``Sampling.redraws``). The words of the
input count as one, singular and plural apart: what is known with one thing is known with all.

What is known lies in a Bloom filter ("Space/time trade-offs in hash coding with allowable errors", Bloom, 1970): ten
bits each, and one in a hundred that isn't known passes for known. docs/experiments.md tells how this compares with what
readers say.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nlargest
from itertools import product
from typing import Any

from promptdial.engine.length import Words

START = "."
OWN, OWNS = "<own>", "<owns>"  # stand for a word of the input, and for a plural
NEAR = 12  # words, within which a word of the input doesn't come again
SHORT_WORD = 3  # letters: shorter words may come again
BITS_EACH, HASHES = 10, 7
_ITEM = re.compile(r"[^\W\d_]+|\S")


def items(text: str) -> list[str]:
    """The start, then words in lower case and signs, those that end a sentence as one."""
    return [START, *(_item(item) for item in _ITEM.findall(text))]


def _item(item: str) -> str:
    if item[0].isalpha():
        return item.lower()
    return START if item in ".!?" else item if item in ",;:-–—'’" else '"'


def own_words(text: str, stopwords: Collection[str]) -> set[str]:
    """The words of an input that carry its sense, each also as the other of singular and plural."""
    words = {word for word in _ITEM.findall(text.lower()) if word.isalpha()}
    words = {word for word in words if len(word) > 1 and word not in stopwords}
    return words | {f"{word}s" for word in words} | {word[:-1] for word in words if word.endswith("s")}


def twice(own: Collection[str], found: Sequence[str], stopwords: Collection[str]) -> set[str]:
    """Words that carry sense and come again in a sentence: those of inputs within ``NEAR`` words; others anywhere."""
    return {
        word
        for place, word in enumerate(found)
        if (word in own or (len(word) > SHORT_WORD and word not in stopwords))
        and word in (found[place + 1 : place + 1 + NEAR] if word in own else found[place + 1 :])
    }


def triples(found: Sequence[str], own: Collection[str]) -> Iterator[str]:
    """A sentence's items in threes, as they are learnt: with the words of the input as one."""
    classed = [_class(word) if word in own else word for word in found]
    return (" ".join(three) for three in zip(classed, classed[1:], classed[2:], strict=False))


def _class(word: str) -> str:
    return OWNS if word.endswith("s") and not word.endswith("ss") else OWN


@dataclass(frozen=True, slots=True)
class Given:
    """Of an input: the words that carry its sense, and those that it has twice itself."""

    words: Collection[str]
    repeated: Collection[str]


@dataclass(frozen=True, slots=True)
class Phrases:
    """What is known: a Bloom filter of triples, the words that come twice in known sentences, and those that carry no
    sense."""

    bits: bytes
    repeated: Collection[str]
    stopwords: Collection[str]

    @classmethod
    def of(cls, known: Collection[str], repeated: Collection[str], stopwords: Collection[str]) -> Phrases:
        """From triples as ``triples`` gives them."""
        bits = bytearray(len(known) * BITS_EACH // 8 + 1)
        for triple in known:
            for place in _places(triple, len(bits)):
                bits[place >> 3] |= 1 << (place & 7)
        return cls(bytes(bits), frozenset(repeated), frozenset(stopwords))

    @classmethod
    def from_bytes(cls, data: bytes) -> Phrases:
        """As ``to_bytes`` writes them. Raises ValueError."""
        head, separator, bits = data.partition(b"\n")
        if not separator or not bits:
            raise ValueError("it has no line of JSON with a filter behind it")
        try:
            lists = json.loads(head)
            return cls(bits, frozenset(lists["repeated"]), frozenset(lists["stopwords"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"its first line lacks {error}") from error

    def to_bytes(self) -> bytes:
        """A line of JSON, then the filter."""
        head: dict[str, Any] = {"repeated": sorted(self.repeated), "stopwords": sorted(self.stopwords)}
        return json.dumps(head).encode() + b"\n" + self.bits

    def given(self, text: str) -> Given:
        """What an input brings into its answers."""
        counts = Counter(items(text))
        return Given(
            own_words(text, self.stopwords), frozenset(word for word, count in counts.items() if count > 1)
        )

    def is_strange(self, sentence: str, given: Given) -> bool:
        """Whether a sentence of an answer does not hold together."""
        return self.strangeness(sentence, given) > 0

    def strangeness(self, sentence: str, given: Given) -> int:
        """How many triples and repeated words of a sentence of an answer no row has."""
        found, own = items(sentence), given.words
        again = [word for word in twice(own, found, self.stopwords) if word not in given.repeated]
        forms = [(word, _class(word)) if word in own else (word,) for word in found]
        threes = zip(forms, forms[1:], forms[2:], strict=False)
        return sum(word in own or word not in self.repeated for word in again) + sum(
            not any(self._has(" ".join(three)) for three in product(*each)) for each in threes
        )

    def _has(self, triple: str) -> bool:
        bits = self.bits
        return all(bits[place >> 3] >> (place & 7) & 1 for place in _places(triple, len(bits)))


def _places(triple: str, size: int) -> Iterator[int]:
    """The bits of a filter of ``size`` bytes that stand for it."""
    number = int.from_bytes(blake2b(triple.encode(), digest_size=8).digest(), "little")
    step, number = (number >> 32) | 1, number & 0xFFFFFFFF
    for _ in range(HASHES):
        yield number % (8 * size)
        number += step


@dataclass(frozen=True, slots=True)
class Sentences:
    """Phrases, and what each token of a vocabulary stands for."""

    phrases: Phrases
    tokens: Sequence[bytes]
    closes: Sequence[bool]

    @classmethod
    def of(cls, phrases: Phrases, tokens: Sequence[bytes], words: Words) -> Sentences:
        """From what each id stands for."""
        return cls(phrases, tokens, words.closes)

    def given(self, prompt: Iterable[int]) -> Given:
        """What a prompt's input brings into its answers."""
        return self.phrases.given(self.text(prompt))

    def text(self, ids: Iterable[int]) -> str:
        """What ids stand for; control tokens stand for nothing."""
        return b"".join(self.tokens[token] for token in ids).decode(errors="replace")


class Draft:
    """The sentence that a candidate is at, which isn't handed out before it is whole.

    Where it is strange or unlikely, or can't go on well, it is drawn anew. When all tries are used up, the least
    strange one of those that became whole is said again, token by token; of such as are alike in that, the likeliest.
    """

    __slots__ = (
        "_best", "_given", "_left", "_most", "_nats", "_said", "_sentences", "max_surprisal", "number",
    )  # fmt: skip

    def __init__(self, sentences: Sentences, given: Given, redraws: int, max_surprisal: float = 0.0) -> None:
        """``redraws``: how often a sentence is drawn anew, before one of its draws is taken. ``max_surprisal``: one
        is whose two least likely tokens have more nats than this together; where it is 0, none is for that.
        """
        self._sentences, self._given = sentences, given
        self.number = 0  # how many sentences were given up
        self._most, self.max_surprisal = redraws, max_surprisal
        self._nats: list[float] = []  # of the sentence's tokens
        self._begin()

    def _begin(self) -> None:
        """With the next sentence."""
        self._left = self._most
        self._nats.clear()
        # How strange the least strange draw was, how surprising, and its tokens.
        self._best: tuple[int, float, Sequence[int]] | None = None
        self._said: Sequence[int] = ()  # these, once they are said again

    def adds(self, nats: float) -> None:
        """Note how unlikely the sentence's next token was."""
        self._nats.append(nats)

    def ends_with(self, token: int) -> bool:
        """Whether a sentence does."""
        return self._sentences.closes[token]

    def goes_on(self, place: int) -> int | None:
        """The token at a place of the sentence, if it is said again."""
        return self._said[place] if place < len(self._said) else None

    def gives_up(self) -> bool:
        """Whether a sentence that can't go on well begins anew; takes note of it."""
        return not self._said and self._begins_anew()

    def refuses(self, sentence: Sequence[int]) -> bool:
        """Whether a whole sentence begins anew; takes note of it. ``<end>`` is part of it, where it was drawn."""
        if not self._said:
            surprisal = sum(nlargest(2, self._nats)) if self.max_surprisal else 0.0
            strange = self._sentences.phrases.strangeness(self._sentences.text(sentence), self._given)
            strange += surprisal > self.max_surprisal  # which counts as much as one strange phrase
            found = strange, surprisal, sentence
            if self._best is None or found[:2] <= self._best[:2]:
                self._best = found
            if strange and (self._left or self._best is not found) and self._begins_anew():
                return True
        self._begin()
        return False

    def _begins_anew(self) -> bool:
        """As a new draw, or as the best there was; not if all are used up and none was whole."""
        if self._left:
            self._left -= 1
        elif self._best is not None:
            self._said = self._best[2]
        else:
            return False
        self.number += 1
        self._nats.clear()
        return True
