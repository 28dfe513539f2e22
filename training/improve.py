"""Checkpoint -> better checkpoint: `python -m training improve RUN --episodes DIR --out DIR`.

The reinforcement learning of UDRL (arXiv 1912.02877): the model answers exploratory commands over training inputs,
through the engine that serves it; every answer is labelled in hindsight with what it achieved; the best of each command
cell stay in a bounded replay buffer, and the model is trained on them and on the episodes. Answers that loop, copy,
break off or say nothing new are not learnt from, so that a round also teaches fluency. Each round is reported in
`report.json`; a killed run goes on with the step it was at.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import export_bundle
from promptdial.bundle import Bundle, load_bundle
from promptdial.command import Command, word_count
from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.relevance import RelevanceScorer, load_scorer
from promptdial.support import Support
from training import checkpoint, measures, own, replay, rules, sources, train
from training.episodes import Episode, read_episodes, read_file, write_episodes
from training.errors import TrainingError
from training.sense import Sense

log = logging.getLogger(__name__)

LENGTHS = (0.8, 1.3)  # an exploratory length, as a multiple of that of a row of the task
NEW_INPUTS = 0.5  # share of the commands that are over inputs that no row answers
SOURCE = ("rollouts", "Apache-2.0")
WAITING = 512  # requests in the engine's queue
PROBES = 48  # validation inputs that each round is judged by


def run(args: argparse.Namespace) -> None:
    """As many rounds as asked for, each from the checkpoint that the one before ended with."""
    scorer = load_scorer(args.scorer, args.threads)
    rows = read_episodes(args.episodes, "train")
    held_out = read_episodes(args.episodes, "validation")
    args.out.mkdir(parents=True, exist_ok=True)
    current, reports = args.start, []
    for number in range(1, args.rounds + 1):
        folder = args.out / f"round-{number}"
        folder.mkdir(exist_ok=True)
        bundle = exported(current, folder / "bundle", args.scorer)
        before = figures(folder / "before.json", bundle, held_out, scorer, args)
        rollouts, counts = _rollouts(folder, bundle, rows, scorer, args, number)
        buffer = _buffered(args.out / "replay.parquet", rollouts, bundle, args.per_cell)
        current = _trained(folder, current, buffer, args)
        after_bundle = exported(current, folder / "after", args.scorer)
        after = figures(folder / "after.json", after_bundle, held_out, scorer, args)
        reports.append({"round": number, **counts, "buffer": len(buffer), "before": before, "after": after})
        (args.out / "report.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
        log.info("round %d: %s -> %s", number, before, after)


def exported(source: Path, target: Path, scorer: Path | None) -> Bundle:
    """The int8 bundle of a checkpoint, made once."""
    if not (target / "bundle.json").is_file():
        if scorer is None:
            scorer = Path(__file__).parents[1] / "models" / "small"
        export_bundle(checkpoint.folder_of(source), target, precision="int8", name="rollouts", scorer=scorer)
    return load_bundle(target)


def explore(
    rows: Sequence[Episode], inputs: Sequence[Episode], support: Support, count: int, rng: random.Random
) -> Iterator[tuple[Command, Episode]]:
    """Commands to try: as relevant as rows of that length get and a little beyond, any length that the task has.

    UDRL asks for returns at and past the upper end of what was achieved. A fifth asks for less, to keep the dial
    honest. Half of the commands are over `inputs` that no row answers, where there are any; else tasks and modalities
    come as often as in the rows.
    """
    usable = [row for row in rows if row.method != "mismatched" and row.origin != replay.ORIGIN]
    lengths: dict[str, list[int]] = defaultdict(list)
    for row in usable:
        lengths[row.task].append(row.words)
    known = [row for row in inputs if row.task in lengths]
    for _ in range(count):
        row = rng.choice(known if known and rng.random() < NEW_INPUTS else usable)
        limits = support.length_range(row.task) or (1, max(lengths[row.task]))
        wanted = rng.choice(lengths[row.task]) * rng.uniform(*LENGTHS)
        length = max(1, round(min(max(wanted, limits[0]), limits[1])))
        cell = support.cell(row.task, length)
        if cell is None:
            continue
        low, high = (cell.p05, cell.p50) if rng.random() < 0.2 else (cell.p50, min(1.0, cell.p95 + 0.05))
        yield Command(row.task, row.modality, rng.uniform(low, high), length), row


def read_inputs(path: Path | None, tasks: Sequence[str], modalities: Sequence[str]) -> list[Episode]:
    """Inputs without an output from JSON lines of `input`, `kind` and `modality`. Raises TrainingError."""
    if path is None:
        return []
    rows = sources.read_rows(path, ("input", "kind", "modality"), {"kind": tasks, "modality": modalities})
    return [
        Episode(
            row["kind"], row["modality"], row["input"], "", replay.ORIGIN, "", *SOURCE, row["input"], "train"
        )
        for row in rows
    ]


def _rollouts(
    folder: Path,
    bundle: Bundle,
    rows: Sequence[Episode],
    scorer: RelevanceScorer,
    args: argparse.Namespace,
    number: int,
) -> tuple[list[Episode], dict[str, Any]]:
    """Answers to exploratory commands that are worth learning from, and how many were not; kept on disk."""
    path, counts_path = folder / "rollouts.parquet", folder / "rollouts.json"
    if counts_path.is_file():
        return read_file(path), json.loads(counts_path.read_text(encoding="utf-8"))
    rng = random.Random(f"{args.seed}-{number}")
    format = bundle.tokenizer().format
    inputs = read_inputs(args.inputs, format.tasks, format.modalities)
    asked = list(explore(rows, inputs, bundle.support, args.rollouts, rng))
    answers = generate(
        bundle, [(command, row.input) for command, row in asked], args.threads, args.seed + number, args.n
    )
    made = [
        (_rollout(row, text, number), ended)
        for (_, row), candidates in zip(asked, answers, strict=True)
        for text, ended in candidates
    ]
    good = [episode for episode, ended in made if text_ok(episode) and replay.worth_learning(episode, ended)]
    relevance = scorer.score([e.input for e in good], [e.output for e in good])
    labelled = [
        replace(e, relevance=min(max(float(r), 0.0), 1.0)) for e, r in zip(good, relevance, strict=True)
    ]
    counts = {
        "rollouts": len(made),
        "worth_learning": len(good),
        "by_task": dict(Counter(e.task for e in good)),
    }
    write_episodes(path, labelled)
    counts_path.write_text(json.dumps(counts), encoding="utf-8")
    log.info("round %d: %d of %d rollouts are worth learning from", number, len(good), len(made))
    return labelled, counts


def _rollout(row: Episode, text: str, number: int) -> Episode:
    source, licence = SOURCE
    return replace(row, output=text, words=word_count(text), origin=replay.ORIGIN, method=f"round-{number}",
                   source=source, licence=licence)  # fmt: skip


def text_ok(episode: Episode) -> bool:
    """Whether there is a text that can be scored and labelled at all."""
    return episode.words > 0 and bool(episode.output.strip())


def generate(
    bundle: Bundle, asked: Sequence[tuple[Command, str]], threads: int, seed: int, n: int
) -> list[list[tuple[str, bool]]]:
    """For each command and input `n` texts, each with whether it ended by itself, sampled as the bundle does."""
    tokenizer, sampling = bundle.tokenizer(), Sampling(**bundle.sampling)
    engine = Engine.from_bundle(bundle, threads=threads, max_running=16, queue_limit=WAITING)
    engine.start()
    found: list[list[tuple[str, bool]]] = []
    try:
        for first in range(0, len(asked), WAITING):
            part = [
                engine.submit(
                    GenerationRequest(
                        prompt=tuple(tokenizer.prompt(command, text)),
                        n=n,
                        max_tokens=bundle.limits.max_tokens,
                        sampling=sampling,
                        seed=seed + first + number,
                        words=command.length,
                    )
                )
                for number, (command, text) in enumerate(asked[first : first + WAITING])
            ]
            for generation in part:
                ended = [
                    (tokenizer.decode(ids), reason == "stop")
                    for ids, reason in generation.result().candidates
                ]
                found.append(ended)
            log.info("%d of %d commands answered", len(found), len(asked))
    finally:
        engine.close()
    return found


def _buffered(path: Path, rollouts: Sequence[Episode], bundle: Bundle, per_cell: int) -> list[Episode]:
    """The buffer with a round's rollouts merged in; merging twice changes nothing."""
    merged = replay.merge(replay.read(path), rollouts, bundle.tokenizer().format, per_cell)
    replay.write(path, merged)
    return merged


def _trained(folder: Path, start: Path, buffer: Sequence[Episode], args: argparse.Namespace) -> Path:
    """The checkpoint after training on the episodes with the buffer in them."""
    final = folder / "run" / "final"
    if (final / checkpoint.DETAILS).is_file():
        return final
    episodes = folder / "episodes"
    episodes.mkdir(exist_ok=True)
    for name in ("validation.parquet", own.FILE):
        if (args.episodes / name).is_file():
            shutil.copyfile(args.episodes / name, episodes / name)
    if not (episodes / "train.parquet").is_file():  # a resumed run must find the same rows
        write_episodes(episodes / "train.parquet", [*read_episodes(args.episodes, "train"), *buffer])
    train.run(
        argparse.Namespace(
            episodes=episodes, out=folder / "run", recipe=args.recipe, init=start, steps=args.steps, seed=args.seed,
            learning_rate=args.learning_rate, scorer=args.scorer, probe_every=0, save_every=args.save_every,
            accumulate=1, gradient_checkpointing=False,
        )
    )  # fmt: skip
    return final


def figures(
    path: Path,
    bundle: Bundle,
    held_out: Sequence[Episode],
    scorer: RelevanceScorer,
    args: argparse.Namespace,
    sense: Sense | None = None,
) -> dict[str, float]:
    """Relevance at the top command, diversity, repetition, copying and length on validation inputs of `expand`; with
    `sense`, the share of answers without a fault."""
    if path.is_file():
        earlier: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return earlier
    rows = {
        row.input: row
        for row in held_out
        if row.task == "expand" and row.method in ("pair", "reused", "reused-cut")
    }
    chosen = [rows[key] for key in sorted(rows)][:: max(1, len(rows) // PROBES)][:PROBES]
    if not chosen:
        raise TrainingError(f"{args.episodes} holds no validation pairs of expand to judge a round by")
    asked = []
    for row in chosen:
        cell = bundle.support.cell("expand", row.words)
        asked.append((Command("expand", row.modality, cell.p95 if cell else None, row.words), row.input))
    texts = [candidates[0][0] for candidates in generate(bundle, asked, args.threads, args.seed, 1)]
    found = {
        "relevance": _mean(scorer.score([text for _, text in asked], texts)),
        "relevance_reference": _mean(
            scorer.score([row.input for row in chosen], [row.output for row in chosen])
        ),
        "distinct_2": round(measures.distinct_2(_within_budget(texts)), 3),
        "repetition": _mean([measures.repetition(text) for text in texts]),
        "copy_rate": _mean(
            [measures.copy_rate(row.input, text) for row, text in zip(chosen, texts, strict=True)]
        ),
        "recall": _mean(
            [measures.entity_recall(row.input, text) for row, text in zip(chosen, texts, strict=True)]
        ),
        "length_within_20_percent": _mean(
            [
                abs(word_count(text) - row.words) <= 0.2 * row.words
                for row, text in zip(chosen, texts, strict=True)
            ]
        ),
    }
    if sense is not None:
        told = [sense.sentences(row.input, text) for row, text in zip(chosen, texts, strict=True)]
        found["without_fault"] = _mean([not any(faults for _, faults in each) for each in told])
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _within_budget(texts: Sequence[str], budget: int = 1500) -> list[list[str]]:
    """The texts as words, as many as fit into a number of words that every round has."""
    kept: list[list[str]] = []
    for text in texts:
        found = rules.words(text)[: budget - sum(map(len, kept))]
        if found:
            kept.append(found)
    return kept


def _mean(values: Any) -> float:
    return round(float(np.nanmean(np.array(list(values), dtype=float))), 3)
