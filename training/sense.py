"""Sentences that hold together, told from such as don't by what the rows that a model learns from hold.

Four faults that can be counted, which readers stumble over: a pair of neighbouring words that no row has; a thing that
is neither the input's nor one that rows bring in of themselves; a word that comes again, one of the input within a
dozen words ("the cake and the cake") and any other in the same sentence ("from vermilion to vermilion"); and words of a
short input that a longer answer lacks, which is a fault of its first sentence. In a pair the words of the input count
as one: what is known with one thing is known with all. docs/experiments.md tells how this compares with what readers
say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from promptdial.command import word_count
from promptdial.engine.phrases import OWN, items, own_words, twice
from training import measures, rules
from training.episodes import Episode

RECALL = 0.8  # of the input's words, from which on a row or answer is about its input
# Of the rows with a word, the share in which the input doesn't have it, and how many they are at least: then rows bring
# it in of themselves.
BROUGHT_SHARE, BROUGHT_ROWS = 0.08, 3
SHORT_INPUT, ROOM = (
    16,
    1.5,
)  # words, and how many times as many an answer has that is to keep them; of more a part is
TASKS = ("expand", "brief", "style", "suggest")  # those answered in sentences


@dataclass(frozen=True, slots=True)
class Faults:
    """How many of each a sentence has; ``lost`` is 1 for the first one of an answer that isn't about its input."""

    pairs: int
    strangers: int
    echoes: int
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.pairs or self.strangers or self.echoes or self.lost)


@dataclass(frozen=True)
class Sense:
    """What rows hold: the words that may follow each word, those that they bring in of themselves, and those that come
    twice in a sentence ("side by side").
    """

    followers: Mapping[str, Collection[str]]
    brought: frozenset[str]
    repeated: frozenset[str]

    @classmethod
    def of(cls, episodes: Iterable[Episode]) -> Sense:
        """From the rows of tasks that are answered in sentences."""
        followers: dict[str, set[str]] = defaultdict(set)
        rows: Counter[str] = Counter()
        brought: Counter[str] = Counter()
        repeated: Counter[str] = Counter()
        for episode in episodes:
            if episode.task not in TASKS:
                continue
            own, found = own_words(episode.input, rules.STOPWORDS), items(episode.output)
            for word, after in pairwise(found):
                followers[OWN if word in own else word].add(OWN if after in own else after)
            repeated.update(
                word
                for sentence in rules.sentences(episode.output)
                for word in twice(own, items(sentence), rules.STOPWORDS) - own
            )
            words = {word for word in found if word.isalpha()}
            rows.update(words)
            if measures.entity_recall(episode.input, episode.output) >= RECALL:
                brought.update(words - own)
        kept = (
            word for word, count in brought.items() if count >= max(BROUGHT_ROWS, BROUGHT_SHARE * rows[word])
        )
        often = frozenset(word for word, count in repeated.items() if count >= BROUGHT_ROWS)
        return cls(followers, frozenset(kept), often)

    def sentences(self, input: str, output: str, *, on_topic: bool = True) -> list[tuple[str, Faults]]:
        """The sentences of an output with the faults of each; unless ``on_topic``, nothing is strange or lost in it."""
        own, beside = own_words(input, rules.STOPWORDS), set(pairwise(map(_singular, items(input))))
        found = [
            (sentence, self._faults(own, beside, items(sentence), on_topic=on_topic))
            for sentence in rules.sentences(output)
        ]
        if on_topic and found and _is_lost(input, output):
            found[0] = found[0][0], replace(found[0][1], lost=1)
        return found

    def _faults(
        self, own: Collection[str], beside: Collection[tuple[str, str]], found: list[str], *, on_topic: bool
    ) -> Faults:
        pairs = sum(not self._known(own, beside, *pair) for pair in pairwise(found))
        strangers = {
            word for word in found if word.isalpha() and word not in own and word not in self.brought
        }
        echoes = sum(word in own or word not in self.repeated for word in twice(own, found, rules.STOPWORDS))
        return Faults(pairs, len(strangers) if on_topic else 0, echoes)

    def _known(
        self, own: Collection[str], beside: Collection[tuple[str, str]], word: str, after: str
    ) -> bool:
        if after in self.followers.get(word, ()):
            return True
        if word in own and after in own:
            return (_singular(word), _singular(after)) in beside
        if word in own:
            return after in self.followers.get(OWN, ())
        return after in own and OWN in self.followers.get(word, ())


def _is_lost(input: str, output: str) -> bool:
    words = word_count(input)
    has_room = words <= SHORT_INPUT and word_count(output) >= ROOM * words
    return has_room and measures.entity_recall(input, output) < RECALL


def _singular(word: str) -> str:
    return word.removesuffix("s")
