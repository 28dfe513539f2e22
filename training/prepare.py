"""Open data, own pairs -> labelled episodes: `python -m training prepare --data-dir DIR --pairs FILE --out DIR`.

Derives rows for every task and modality, scores each output against its input with the scorer that the service
uses, adds rows of low and middling relevance, keeps near-duplicates on one side of the split, and writes
`train.parquet`, `validation.parquet`, `tasks.json` and `CARD.md`. Embeddings are cached by content in the output
folder, so that an interrupted or repeated run goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from promptdial.command import TASKS, word_count
from promptdial.relevance import RelevanceScorer
from training import card, derive, own, rules, sources
from training.embeddings import EmbeddingCache
from training.episodes import Episode, episode_id, write_episodes
from training.errors import TrainingError
from training.exclude import Excluded, without
from training.generator import Composer
from training.judge import verdicts
from training.split import DisjointSets, near_duplicates
from training.writing import episodes as writing

log = logging.getLogger(__name__)

LONG_SOURCES = ("unigenbench-train", "dpg-bench", "imageinwords")
CAPTION_SOURCES = ("coco-captions", "t2i-compbench")
USER_SOURCES = ("pickapic",)
# Alternative texts of the web with "person" and "city" for names, and prompts that are half names of artists.
LEFT_OUT = ("conceptual-captions", "imagereward")
# Written to test logic ("is very similar to", "there is no"): its posters and logos are the templates that others lack,
# the rest taught its way of speaking.
TEMPLATES_ONLY = ("unigenbench-train",)
TRAIN_ONLY = (
    "swapped",
    "written",
    "altered",
)  # what is validated on is text as found, as it was before there were these
SHORTEST_CAPTION = 4  # words
HELD_OUT_SHARE = 0.007
MISMATCHED_SHARE = 0.15
MISMATCH_POOL = 256
MIN_CELL = 30
SPLIT_FIELDS = {"train": '"split": "train"', "validation": '"split": "eval"'}
LARGEST_DRAWN = 50  # texts of a group of near-duplicates that may be drawn for validation


@dataclass(frozen=True)
class Mix:
    """How many rows are made besides those derived from the data: `generated` ones are composed from its word lists,
    `written` ones are about its captions. `derived_share` of the derived rows for training stay, since labels cost as
    much as training.
    """

    generated: int
    written: int
    derived_share: float = 1.0


@dataclass(frozen=True)
class Labels:
    """A judge's verdicts (what `training judge` wrote), and their share in a label."""

    verdicts: Path
    share: float


def prepare(
    data: sources.OpenData,
    scorer: RelevanceScorer,
    out: Path,
    mix: Mix,
    seed: int,
    excluded: Excluded,
    labels: Labels | None = None,
    processes: int = 1,
) -> None:
    """Write the episodes of `data`, less what is excluded, and their card into `out`; `processes` write about texts."""
    judged = verdicts.labels(labels.verdicts) if labels else {}
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    composed = Composer(data.lists, data.styles, rng).episodes(mix.generated) if data.lists else ()
    episodes = [*derived(data, seed), *composed]
    if data.lists:
        episodes += writing.written(captions(data), data.lists, mix.written, seed, processes)
    episodes = unique(episodes)
    episodes = [e for e in episodes if e.task in data.tasks or not rules.is_instruction(e.output)]
    kept = without(episodes, excluded)
    log.info("%d episodes derived, of which %d are excluded", len(episodes), len(episodes) - len(kept))
    episodes = kept
    held_out = held_out_keys(data)
    episodes = [replace(episode, split=split_of(episode, held_out)) for episode in episodes]
    episodes = [e for e in episodes if e.method not in TRAIN_ONLY or e.split == "train"]
    episodes = [
        e for e in episodes
        if (e.split, e.origin) != ("train", "derived") or _share(episode_id(e)) < mix.derived_share
    ]  # fmt: skip
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
    splits = {split: [e for e in episodes if e.split == split] for split in ("train", "validation")}
    for split, rows in splits.items():
        if not rows:
            raise TrainingError(
                f"no row is left to {'train on' if split == 'train' else 'validate on'}: give more pairs, or mark "
                f"some with {SPLIT_FIELDS[split]}; near-duplicates go together, by the majority of their marks"
            )
        write_episodes(out / f"{split}.parquet", rows)
    own.write(out, own.trained_on(splits["train"], data.tasks))
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
    long_texts = [
        row for row in long_texts if row["source"] not in TEMPLATES_ONLY or rules.TEMPLATE.search(row["text"])
    ]
    pairs = [row for row in data.pairs if row["kind"] in TASKS]
    return [
        *derive.from_pairs(pairs, seed),
        *own.as_found(row for row in data.pairs if row["kind"] in data.tasks),
        *derive.from_long_texts(long_texts, seed),
        *derive.from_user_prompts(prompts, seed),
        *derive.from_captions(captions, seed),
        *derive.from_swapped(pairs, long_texts, captions, seed),
    ]


def captions(data: sources.OpenData) -> list[derive.Row]:
    """What written rows are about: a caption of each picture, short prompts, long texts and what they begin with, and
    inputs of pairs, each with its key.
    """
    rows = {
        row.get("group", row["text"]): row
        for row in data.texts
        if row["source"] in (*CAPTION_SOURCES, *USER_SOURCES)
    }
    # Of prompts by users only what they begin with: styles and names of artists follow.
    short = [{**row, "text": row["text"].split(",")[0], "key": row["text"]} for row in rows.values()]
    short = [row for row in short if word_count(row["text"]) >= SHORTEST_CAPTION]
    long = [
        row for row in data.texts if row["source"] in LONG_SOURCES and row["source"] not in TEMPLATES_ONLY
    ]
    # Long ones whole as well: who pastes a paragraph is to be understood too.
    stories = [
        {**row, "text": text, "key": row["text"]}
        for row in long
        for text in dict.fromkeys((_beginning(row["text"]), row["text"]))
    ]
    pairs = {row["input"]: row for row in data.pairs if row["kind"] == "expand"}
    return [*short, *stories, *({**row, "text": text, "key": text} for text, row in pairs.items())]


def _beginning(text: str) -> str:
    """The first one to three sentences of a text."""
    return " ".join(rules.sentences(text)[: 1 + int(3 * _share(text))])


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
    if episode.origin == "generated" and episode.method not in TRAIN_ONLY:
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
