"""Open data -> labelled episodes: `python -m training prepare --data-dir DIR --out DIR`.

Derives rows for every task and modality, scores each output against its input with the scorer that the service
uses, adds rows of low and middling relevance, keeps near-duplicates on one side of the split, and writes
`train.parquet`, `validation.parquet`, `support.json` and `CARD.md`. Embeddings are cached by content in the output
folder, so that an interrupted or repeated run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdial.command import DEFAULT_FORMAT
from promptdial.relevance import RelevanceScorer
from training import card, derive, rules, sources
from training.embeddings import EmbeddingCache
from training.episodes import Episode, episode_id, write_episodes
from training.exclude import Excluded, without
from training.generator import Composer
from training.judge import verdicts
from training.split import DisjointSets, near_duplicates

log = logging.getLogger(__name__)

LONG_SOURCES = ("unigenbench-train", "dpg-bench", "imageinwords")
CAPTION_SOURCES = ("coco-captions", "t2i-compbench")
USER_SOURCES = ("pickapic",)
# Alternative texts of the web with "person" and "city" for names, and prompts that are half names of artists.
LEFT_OUT = ("conceptual-captions", "imagereward")
HELD_OUT_SHARE = 0.007
MISMATCHED_SHARE = 0.15
MISMATCH_POOL = 256
MIN_CELL = 30
LARGEST_DRAWN = 50  # texts of a group of near-duplicates that may be drawn for validation


@dataclass(frozen=True)
class Labels:
    """A judge's verdicts (what `training judge` wrote), and their share in a label."""

    verdicts: Path
    share: float


def prepare(
    data: sources.OpenData,
    scorer: RelevanceScorer,
    out: Path,
    generated: int,
    seed: int,
    excluded: Excluded,
    labels: Labels | None = None,
) -> None:
    """Write the episodes of `data`, less what is excluded, and their card into `out`."""
    judged = verdicts.labels(labels.verdicts) if labels else {}
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    episodes = unique([*derived(data, seed), *Composer(data.lists, data.styles, rng).episodes(generated)])
    episodes = [episode for episode in episodes if not rules.is_instruction(episode.output)]
    kept = without(episodes, excluded)
    log.info("%d episodes derived, of which %d are excluded", len(episodes), len(episodes) - len(kept))
    episodes = kept
    held_out = held_out_keys(data)
    episodes = [replace(episode, split=split_of(episode, held_out)) for episode in episodes]
    episodes = [e for e in episodes if e.method != "swapped" or e.split == "train"]
    log.info("%d episodes are for validation", sum(episode.split == "validation" for episode in episodes))
    cache = EmbeddingCache(out / "embeddings", scorer)
    episodes = score(episodes, cache)
    episodes = without_seen(unique([*episodes, *mismatched(episodes, cache, rng)]))
    told = ""
    if labels:
        episodes, count = verdicts.blend(episodes, judged, labels.share)
        told = (
            f"The relevance of {count} episodes is {labels.share:g} of a judge's verdict and {1 - labels.share:g} of "
            f"the embedding scorer's; the other {len(episodes) - count} have no verdict and are labelled by the "
            "scorer alone."
        )
        log.info("%s", told)
    for split in ("train", "validation"):
        write_episodes(out / f"{split}.parquet", [episode for episode in episodes if episode.split == split])
    train = [episode for episode in episodes if episode.split == "train"]
    (out / "support.json").write_text(json.dumps(support(train), indent=1), encoding="utf-8")
    (out / "CARD.md").write_text(card.render(episodes, told), encoding="utf-8")
    log.info("wrote %s", out)


def derived(data: sources.OpenData, seed: int) -> list[Episode]:
    """All unscored episodes that the pairs and texts give."""
    by_source: dict[str, list[derive.Row]] = defaultdict(list)
    for row in data.texts:
        by_source[row["source"]].append(row)
    unknown = set(by_source) - {*LONG_SOURCES, *CAPTION_SOURCES, *USER_SOURCES, *LEFT_OUT}
    if unknown:
        log.warning(
            "texts of unknown sources are treated as prompts by users: %s", ", ".join(sorted(unknown))
        )
    long_texts, captions, prompts = (
        [row for name in names for row in by_source[name]]
        for names in (LONG_SOURCES, CAPTION_SOURCES, (*USER_SOURCES, *sorted(unknown)))
    )
    return [
        *derive.from_pairs(data.pairs, seed),
        *derive.from_long_texts(long_texts, seed),
        *derive.from_user_prompts(prompts, seed),
        *derive.from_captions(captions, seed),
        *derive.from_swapped(data.pairs, long_texts, captions, seed),
    ]


def unique(episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes without exact repeats; the first of each stays."""
    return list({episode_id(episode): episode for episode in reversed(episodes)}.values())[::-1]


def held_out_keys(data: sources.OpenData) -> frozenset[str]:
    """Keys whose episodes validate, near-duplicates together.

    A group of near-duplicates follows the majority of its pairs' marks (templates like "a person is ..." would
    otherwise pull a third of the pairs after a few marked `eval`); of texts alone a small share is drawn.
    """
    pairs = [text for row in data.pairs for text in (row["input"], row["output"])]
    texts = [*pairs, *(row["text"] for row in data.texts)]
    sets = DisjointSets(len(texts))
    for first in range(0, len(pairs), 2):
        sets.union(first, first + 1)
    groups: dict[object, int] = {}
    for index, row in enumerate(data.texts, start=len(pairs)):
        if "group" in row:
            sets.union(index, groups.setdefault(row["group"], index))
    for first, second in near_duplicates(texts):
        sets.union(first, second)
    size = Counter(sets.find(index) for index in range(len(texts)))
    marks: Counter[int] = Counter()
    for number, row in enumerate(data.pairs):
        marks[sets.find(2 * number)] += 1 if row["split"] == "eval" else -1
    held = {root for root, balance in marks.items() if balance > 0}
    drawn = {
        root
        for root in size
        if root not in marks and size[root] <= LARGEST_DRAWN and _share(texts[root]) < HELD_OUT_SHARE
    }
    log.info("%d groups of near-duplicates, the largest %d texts", len(size), max(size.values()))
    return frozenset(text for i, text in enumerate(texts) if sets.find(i) in held | drawn)


def split_of(episode: Episode, held_out: frozenset[str]) -> str:
    """`validation` for held-out keys and a small share of the generated rows, else `train`."""
    if episode.origin == "generated":
        return "validation" if _share(episode.key) < HELD_OUT_SHARE else "train"
    return "validation" if episode.key in held_out else "train"


def _share(text: str) -> float:
    """A number in 0-1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def score(episodes: Sequence[Episode], cache: EmbeddingCache) -> list[Episode]:
    """The episodes with their relevance: cosine of input and output embeddings, clipped to 0-1."""
    inputs = cache.embed([episode.input for episode in episodes])
    outputs = cache.embed([episode.output for episode in episodes])
    relevance = np.clip(np.einsum("nd,nd->n", inputs, outputs), 0.0, 1.0)
    return [replace(episode, relevance=float(r)) for episode, r in zip(episodes, relevance, strict=True)]


def mismatched(episodes: Sequence[Episode], cache: EmbeddingCache, rng: random.Random) -> list[Episode]:
    """Inputs with another text's output (and its source), at relevances spread from random to the input's own.

    Without such rows every output is relevant and the command has nothing to steer. The output comes from a random
    pool of the same task, modality and split: the one whose relevance is nearest to a drawn value.
    """
    cells: dict[tuple[str, str, str], list[Episode]] = defaultdict(list)
    for episode in episodes:
        cells[episode.task, episode.modality, episode.split].append(episode)
    made = []
    for cell in cells.values():
        if len(cell) < MIN_CELL:
            continue
        outputs = cache.rows([episode.output for episode in cell])
        for number in rng.sample(range(len(cell)), round(MISMATCHED_SHARE * len(cell))):
            episode = cell[number]
            pool = rng.sample(range(len(cell)), min(MISMATCH_POOL, len(cell)))
            pool = [index for index in pool if cell[index].key != episode.key]
            if not pool:
                continue
            # Without BLAS, whose threads wait for each other far longer than so small a product takes.
            relevance = np.einsum("nd,d->n", outputs[pool], cache.rows([episode.input])[0])
            wanted = rng.uniform(0.05, max(0.1, 0.85 * episode.relevance))
            nearest = int(np.argmin(np.abs(relevance - wanted)))
            other = replace(
                cell[pool[nearest]],
                input=episode.input,
                key=episode.key,
                origin="derived",
                method="mismatched",
            )
            made.append(replace(other, relevance=float(np.clip(relevance[nearest], 0.0, 1.0))))
    return made


def without_seen(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes, less those for validation whose input or output stands word for word in a training row."""
    seen = {_plain(text) for e in episodes if e.split == "train" for text in (e.input, e.output)}
    return [e for e in episodes if e.split == "train" or not {_plain(e.input), _plain(e.output)} & seen]


def _plain(text: str) -> str:
    return " ".join(rules.words(text))


def support(episodes: Sequence[Episode]) -> dict[str, object]:
    """What was seen of each task: percentiles of length, and of relevance per length bucket (>= 30 rows each)."""
    tasks: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        tasks[episode.task].append(episode)
    return {task: _task_support(rows) for task, rows in sorted(tasks.items())}


def _task_support(episodes: Sequence[Episode]) -> dict[str, object]:
    lengths = np.array([episode.words for episode in episodes])
    buckets: dict[int, list[float]] = defaultdict(list)
    for episode in episodes:
        centre = DEFAULT_FORMAT.length_buckets[DEFAULT_FORMAT.length_bucket(episode.words)]
        buckets[centre].append(episode.relevance)
    cells = [
        {"length": centre, **_percentiles(np.array(values), (5, 10, 50, 90, 95)), "count": len(values)}
        for centre, values in sorted(buckets.items())
        if len(values) >= MIN_CELL
    ]
    length = {name: round(value) for name, value in _percentiles(lengths, (5, 50, 95)).items()}
    return {"length": {**length, "count": len(episodes)}, "cells": cells}


def _percentiles(values: NDArray[Any], wanted: tuple[int, ...]) -> dict[str, float]:
    return {f"p{q:02d}": round(float(np.percentile(values, q)), 3) for q in wanted}
