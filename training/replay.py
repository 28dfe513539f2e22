"""The replay buffer of `improve`: rollouts worth learning from, the best of each command cell, in one Parquet file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from promptdial.command import CommandFormat
from training import measures, rules
from training.episodes import Episode, read_file, write_episodes

ORIGIN = "rollout"
MOST_COPIED = 0.5  # longest run of input words / words of the output
LONG = 25  # words; shorter outputs may well be mostly their input


def worth_learning(episode: Episode, ended: bool) -> bool:
    """Whether a rollout ended by itself, with a sentence, says something new, keeps its input and never loops."""
    text = episode.output
    if not ended or episode.words < 3 or rules.is_noisy(text) or measures.repetition(text) > 0:
        return False
    if episode.task == "compress":
        return episode.words < len(episode.input.split())
    if episode.task not in ("style", "tags") and not measures.ends_sentence(text):
        return False
    most = MOST_COPIED if episode.words >= LONG else 0.8
    return rules.adds(episode.input, text) and measures.copy_rate(episode.input, text) <= most


def variety(text: str) -> float:
    """Different content words per content word, 0-1: lower where a text says the same again."""
    found = [word for word in rules.words(text) if word not in rules.STOPWORDS]
    return len(set(found)) / len(found) if found else 0.0


def merit(episode: Episode) -> float:
    """What rollouts of one cell are ranked by; relevance and length are the cell's own, so they don't count."""
    copied = 0.0 if episode.task == "compress" else measures.copy_rate(episode.input, episode.output)
    recall = measures.entity_recall(episode.input, episode.output)
    return (1.0 if math.isnan(recall) else recall) + variety(episode.output) - copied


def merge(
    old: Sequence[Episode], new: Sequence[Episode], format: CommandFormat, per_cell: int, per_input: int = 2
) -> list[Episode]:
    """The best `per_cell` rollouts of each (task, modality, relevance bucket, length bucket), few of an input."""
    cells: dict[tuple[str, str, str, str], list[Episode]] = defaultdict(list)
    for episode in {(e.task, e.modality, e.input, e.output): e for e in (*old, *new)}.values():
        cells[format.tokens(episode.command)].append(episode)
    kept: list[Episode] = []
    for _, found in sorted(cells.items()):
        count: dict[str, int] = defaultdict(int)
        chosen = []
        for episode in sorted(found, key=lambda e: (-merit(e), e.input, e.output)):
            count[episode.input] += 1
            if count[episode.input] <= per_input:
                chosen.append(episode)
        kept += chosen[:per_cell]
    return kept


def read(path: Path) -> list[Episode]:
    """The buffer, empty before the first round."""
    return read_file(path) if path.is_file() else []


def write(path: Path, episodes: Sequence[Episode]) -> None:
    """Replace the buffer, whole or not at all."""
    write_episodes(path, episodes)
