"""The noun phrases of a short text, found with a list of nouns: what there is to say more about.

No tagger: a noun is a listed one, or the last word of what follows an article. Texts that this doesn't fit give few
phrases or none, and are not written about.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training import rules

LEXICON = Path(__file__).with_name("lexicon.toml")
UNKNOWN = "object"  # the kind of a noun that is not listed
PLACES = ("room", "city", "nature", "shore", "water", "snow", "sky")


@cache
def _table() -> dict[str, dict[str, str]]:
    return tomllib.loads(LEXICON.read_text(encoding="utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(_table()["words"][name].split())


def opposites() -> list[frozenset[str]]:
    """Groups of adjectives and nouns of which a noun phrase takes one at most."""
    return [frozenset(words.split()) for words in _table()["opposites"].values()]


_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[.,;:!?]")
_ARTICLES = _words("articles")
_NUMBERS = _words("numbers")
_IRREGULAR: Mapping[str, str] = _table()["irregular"]
VERBS = _words("verbs")
_NOT_ADJECTIVES = VERBS | _words("no_adjectives")

_NO_THINGS = _words("no_things")
_ADVERBS = _words("no_nouns")
_GROUPS = _words("groups")
NO_VERBS = _words("no_verbs")
STANDING = _words("standing")


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase: tokens `start` to `end`, of which those from `head` on are the noun itself."""

    start: int
    modifiers: int  # where the words between article and noun begin
    head: int
    end: int
    kind: str
    plural: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text's tokens, and its noun phrases in their order."""

    tokens: tuple[str, ...]
    nouns: tuple[Noun, ...]

    def words(self, noun: Noun) -> str:
        """Adjectives and noun, without an article."""
        return " ".join(self.tokens[noun.modifiers : noun.end])

    def noun(self, noun: Noun) -> str:
        """The noun alone."""
        return " ".join(self.tokens[noun.head : noun.end])


class Lexicon:
    """Nouns and their kinds."""

    def __init__(self, more: Mapping[str, Iterable[str]]) -> None:
        """The listed nouns and `more`: kind to nouns, which yield to the listed ones."""
        self._kinds: dict[tuple[str, ...], str] = {}
        for kind, text in _table()["nouns"].items():
            for noun in text.split():
                self._kinds[tuple(noun.split("-"))] = kind
                self._kinds[(noun,)] = kind
        for kind, nouns in more.items():
            for noun in nouns:
                words = tuple(noun.lower().split())
                if words and self.find(words, 0) is None and words[-1] not in _NO_THINGS:
                    self._kinds[words] = kind

    def nouns(self, kind: str) -> list[str]:
        """The nouns of a kind, one word each."""
        return sorted(words[0] for words, own in self._kinds.items() if own == kind and len(words) == 1)

    def find(self, tokens: tuple[str, ...], at: int) -> tuple[int, str, bool] | None:
        """The longest noun that begins at a token: its length in tokens, its kind, whether it is plural."""
        for length in (3, 2, 1):
            words = tuple(token.lower() for token in tokens[at : at + length])
            if len(words) < length:
                continue
            for last, plural in _singulars(words[-1]):
                kind = self._kinds.get((*words[:-1], last))
                if kind is not None:
                    return length, kind, plural
        return None


def _singulars(word: str) -> Iterable[tuple[str, bool]]:
    """What a word may be the plural of; itself first."""
    if word in _IRREGULAR:
        yield _IRREGULAR[word], True
        return
    yield word, False
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y", True
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        yield word[:-2], True
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        yield word[:-1], True


def parse(text: str, lexicon: Lexicon) -> Parsed:
    """The tokens and noun phrases of a text."""
    tokens = tuple(_TOKEN.findall(text))
    nouns: list[Noun] = []
    at, free = 0, 0  # `free`: the first token that no phrase has taken
    while at < len(tokens):
        found = _noun_at(tokens, at, free, lexicon) or _unknown_at(tokens, at, lexicon)
        if found is None or _is_group(tokens, found):
            at += 1
            continue
        nouns.append(found)
        at = free = found.end
    return Parsed(tokens, tuple(nouns))


def _noun_at(tokens: tuple[str, ...], at: int, free: int, lexicon: Lexicon) -> Noun | None:
    """The phrase whose noun is listed and begins at `at`; of several nouns in a row the last is the head."""
    match = lexicon.find(tokens, at)
    if match is None:
        return None
    head, (length, kind, plural) = at, match
    while (following := lexicon.find(tokens, head + length)) is not None:
        head, (length, kind, plural) = head + length, following
    last = head + length
    if last < len(tokens) and _is_adjective(tokens, last, last) and _may_be_noun(tokens[last].lower()):
        head, length, kind, plural = last, 1, UNKNOWN, False  # "a storm trooper"
    start = at
    while start > free and start > at - 3 and _is_adjective(tokens, start - 1, free):
        start -= 1
    modifiers = start
    if start > free and _is_article(tokens[start - 1]):
        start -= 1
        plural = plural or tokens[start].lower() in _NUMBERS
    elif start >= free + 3 and tokens[start - 1] == "of" and tokens[start - 2] in _GROUPS:
        start -= 3 if _is_article(tokens[start - 3]) else 2
    return Noun(start, modifiers, head, head + length, kind, plural)


def _unknown_at(tokens: tuple[str, ...], at: int, lexicon: Lexicon) -> Noun | None:
    """After an article, the words up to one that ends a phrase; the last of them is the noun."""
    if tokens[at].lower() not in ("a", "an", "the"):
        return None
    end = at + 1
    while end < len(tokens) and end < at + 4 and _is_adjective(tokens, end, at):
        if lexicon.find(tokens, end) is not None:
            return None
        end += 1
    if end < len(tokens) and tokens[end].lower() in _GROUPS:
        return None
    if (
        end == at + 1
        or not _may_be_noun(tokens[end - 1].lower())
        or (end < len(tokens) and lexicon.find(tokens, end) is not None)
    ):
        return None
    return Noun(at, at + 1, end - 1, end, UNKNOWN, False)


def _may_be_noun(word: str) -> bool:
    return word not in _NO_THINGS and word not in _ADVERBS and not word.endswith(("ed", "ly"))


def _is_group(tokens: tuple[str, ...], noun: Noun) -> bool:
    """Whether a noun only counts the one behind it: "a couple of signs"."""
    return noun.end < len(tokens) and tokens[noun.end] == "of" and tokens[noun.end - 1].lower() in _GROUPS


def _is_article(token: str) -> bool:
    return token.lower() in _ARTICLES or token.lower() in _NUMBERS


def _is_adjective(tokens: tuple[str, ...], at: int, free: int) -> bool:
    word = tokens[at].lower()
    if not word[0].isalpha() or word in rules.STOPWORDS or word in _NOT_ADJECTIVES or _is_article(word):
        return False
    if word.endswith("ing"):  # "a smiling man", but not "a man riding waves"
        return at > free and _is_article(tokens[at - 1])
    return not (word.endswith("s") and not word.endswith(("ss", "us", "ous")))
