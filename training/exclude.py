"""Rows that evaluation sets hold are left out: `prepare --exclude FILE`.

A row goes when its input, its output or the text it was made from shares a run of 8 words with an excluded text, or is
a near-duplicate of one (word Jaccard >= 0.7, see `training/split.py`).
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.episodes import Episode
from training.errors import TrainingError
from training.rules import words
from training.split import NEAR

RUN = 8  # words


class Excluded:
    """The texts that training must not see."""

    def __init__(self, texts: Sequence[str]) -> None:
        found = [words(text) for text in texts]
        self._runs = {run for text in found for run in _runs(text)}
        self._sets = [frozenset(text) for text in found if text]
        self._frequency = Counter(word for each in self._sets for word in each)
        self._postings: dict[str, list[int]] = defaultdict(list)
        for index, each in enumerate(self._sets):
            for word in self._prefix(each):
                self._postings[word].append(index)

    def __len__(self) -> int:
        return len(self._sets)

    def holds(self, text: str) -> bool:
        """Whether a text shares a run of words with an excluded one or nearly is one."""
        found = words(text)
        if any(run in self._runs for run in _runs(found)):
            return True
        own = frozenset(found)
        candidates = {index for word in self._prefix(own) for index in self._postings.get(word, ())}
        return any(len(own & self._sets[i]) >= NEAR * len(own | self._sets[i]) for i in candidates)

    def _prefix(self, found: frozenset[str]) -> list[str]:
        """The rarest words of a set, one of which every near-duplicate shares."""
        rarest_first = sorted(found, key=lambda word: (self._frequency[word], word))
        return rarest_first[: len(found) - math.ceil(NEAR * len(found)) + 1] if found else []


def read(paths: Sequence[Path]) -> Excluded:
    """The texts of files: lines of text, or JSON lines, whose every text field counts. Raises TrainingError."""
    return Excluded([text for path in paths for text in _texts(path)])


def without(episodes: Sequence[Episode], excluded: Excluded) -> list[Episode]:
    """The episodes that hold nothing of the excluded texts."""
    if not len(excluded):
        return list(episodes)
    held: dict[str, bool] = {}
    for episode in episodes:
        for text in (episode.key, episode.input, episode.output):
            if text not in held:
                held[text] = excluded.holds(text)
    return [e for e in episodes if not (held[e.key] or held[e.input] or held[e.output])]


def _runs(found: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1))


def _texts(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{path} can't be read ({error}): --exclude takes .txt or .jsonl files"
        ) from error
    for number, line in enumerate(lines, start=1):
        if path.suffix != ".jsonl":
            yield line
        elif line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TrainingError(f"{path}, line {number}: not JSON ({error})") from error
            values = row.values() if isinstance(row, dict) else [row]
            yield from (value for value in values if isinstance(value, str))
