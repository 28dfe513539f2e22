"""Near-duplicates end up on one side of the split.

Two texts are near-duplicates when the Jaccard similarity of their word sets is at least 0.7. They are found exactly,
by prefix filtering (Bayardo et al., WWW 2007): two sets this similar share a word among their rarest ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from training.rules import words

NEAR = 0.7


class DisjointSets:
    """Union-find over indices 0..n-1 with path halving."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The representative of an item's set."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def union(self, first: int, second: int) -> None:
        """Merge the sets of two items."""
        self._parent[self.find(first)] = self.find(second)


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> Iterator[tuple[int, int]]:
    """Index pairs of texts with word Jaccard >= threshold; every such pair, each once."""
    sets = [frozenset(words(text)) for text in texts]
    frequency = Counter(word for found in sets for word in found)
    postings: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(sets)), key=lambda i: len(sets[i])):
        found = sets[index]
        if not found:
            continue
        rarest_first = sorted(found, key=lambda word: (frequency[word], word))
        prefix = rarest_first[: len(found) - math.ceil(threshold * len(found)) + 1]
        candidates = {other for word in prefix for other in postings[word]}
        for other in candidates:
            if len(sets[other]) >= threshold * len(found):
                shared = len(found & sets[other])
                if shared >= threshold * (len(found) + len(sets[other]) - shared):
                    yield other, index
        for word in prefix:
            postings[word].append(index)
