"""What the sentences of a model's rows hold: the engine tells strange ones by it (`promptdial/engine/phrases.py`)."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from promptdial.bundle import PHRASES_FILE
from promptdial.engine.phrases import Phrases, items, own_words, triples, twice
from training import rules
from training.episodes import Episode

log = logging.getLogger(__name__)

REPEATED_ROWS = 3  # from which on a word may come twice in a sentence ("side by side")
# One text in so many is left out, to see whether the others tell anything of its sentences: if more of these than that
# share were strange, the rows would be too few.
LEFT_OUT, MOST_STRANGE = 50, 0.5


def write(folder: Path, episodes: Sequence[Episode]) -> None:
    """Put the phrases of the episodes beside a checkpoint, unless they tell nothing of texts that aren't among them."""
    path = folder / PHRASES_FILE
    path.unlink(missing_ok=True)
    left_out = [episode for episode in episodes if _is_left_out(episode)]
    found = learnt(episode for episode in episodes if not _is_left_out(episode))
    share = strange_share(found, left_out) if left_out else 1.0
    log.info(
        "%.0f %% of the sentences of texts that were left out have phrases that no other row has", 100 * share
    )
    if share <= MOST_STRANGE:
        path.write_bytes(found.to_bytes())
    else:
        log.info("no %s: the rows are too few to tell strange sentences by", PHRASES_FILE)


def _is_left_out(episode: Episode) -> bool:
    return zlib.crc32(episode.key.encode()) % LEFT_OUT == 0


def learnt(episodes: Iterable[Episode]) -> Phrases:
    """The phrases of the episodes' outputs."""
    known: set[str] = set()
    repeated: Counter[str] = Counter()
    for episode in episodes:
        own = own_words(episode.input, rules.STOPWORDS)
        for sentence in rules.sentences(episode.output):
            found = items(sentence)
            known.update(triples(found, own))
            repeated.update(twice(own, found, rules.STOPWORDS) - own)
    return Phrases.of(
        known, {word for word, rows in repeated.items() if rows >= REPEATED_ROWS}, rules.STOPWORDS
    )


def strange_share(phrases: Phrases, episodes: Iterable[Episode]) -> float:
    """Of the sentences of the episodes' outputs, how many are strange; 0 of none."""
    told = [
        phrases.is_strange(sentence, phrases.given(episode.input))
        for episode in episodes
        for sentence in rules.sentences(episode.output)
    ]
    return sum(told) / max(1, len(told))
