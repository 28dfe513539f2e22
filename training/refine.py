"""Checkpoint -> one that writes fewer senseless sentences: `python -m training refine RUN --episodes DIR --out DIR`.

A policy gradient over the model's own answers. It answers commands over training inputs several times, through the
engine that serves it, and every sentence is held against what the rows hold (`training/sense.py`). Tokens of a sentence
are made more or less likely by how it compares with those of the other answers to the same command; as many of the
episodes' rows come beside them, so that what was learnt stays. Sentences are judged one by one, since most faults are
those of one sentence; the group-relative advantages of arXiv 2402.03300 are those of whole answers. A killed run goes
on with the step it was at. `report.json` tells how answers to held-out inputs were before and after.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from promptdial.bundle import Bundle
from promptdial.command import Command
from promptdial.relevance import load_scorer
from promptdial.tokenizer import PromptTokenizer
from training import batches, improve, recipe, train
from training.batches import Row
from training.checkpoint import DETAILS
from training.episodes import Episode, read_episodes
from training.errors import TrainingError
from training.sense import TASKS, Sense

log = logging.getLogger(__name__)

# An advantage is that of the sentence, and shares of the next sentence's, which it led to, and of the whole answer's.
NEXT, WHOLE = 0.3, 0.3
# Of the commands, such as leave relevance out; of the others, such as ask for at least middling relevance. Where less
# is asked for, nothing is strange or lost.
FREE, ON_TOPIC = 0.1, 0.8


@dataclass(frozen=True, slots=True)
class Rollout:
    """One of a command's answers, and its sentences with whether each is at fault."""

    command: Command
    input: str
    output: str
    ended: bool
    sentences: tuple[tuple[str, bool], ...]


def run(args: argparse.Namespace) -> None:
    """Roll out, judge, train, and report."""
    rows, held_out = read_episodes(args.episodes, "train"), read_episodes(args.episodes, "validation")
    scorer = load_scorer(args.scorer, args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    bundle = improve.exported(args.start, args.out / "bundle", args.scorer)
    fitting = batches.fitting(rows, bundle.tokenizer(), recipe.load(args.recipe).data)
    learnt = [episode for episode, _ in fitting]
    sense = Sense.of(learnt)
    before = improve.figures(args.out / "before.json", bundle, held_out, scorer, args, sense)
    judged = gained(_rollouts(args.out / "rollouts.jsonl", bundle, learnt, sense, args), bundle.tokenizer())
    if not judged:
        raise TrainingError(
            "all answers are alike, with a fault in every sentence or in none: nothing is to be learnt"
        )
    final = args.out / "run" / "final"
    if not (final / DETAILS).is_file():
        train.run(_training(args, judged), judged)
    after_bundle = improve.exported(final, args.out / "after", args.scorer)
    after = improve.figures(args.out / "after.json", after_bundle, held_out, scorer, args, sense)
    report = {
        "rollouts": args.rollouts * args.n,
        "learnt_from": len(judged),
        "before": before,
        "after": after,
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    log.info("%s -> %s", before, after)


def _training(args: argparse.Namespace, judged: Sequence[Row]) -> argparse.Namespace:
    """A run that sees about as many tokens as the judged rows and as many of the episodes have."""
    batch_tokens = recipe.load(args.recipe).optimizer.batch_tokens
    steps = max(1, round(2 * sum(row.length for row in judged) / batch_tokens))
    return argparse.Namespace(
        episodes=args.episodes, out=args.out / "run", recipe=args.recipe, init=args.start, steps=steps,
        seed=args.seed, learning_rate=args.learning_rate, scorer=args.scorer, probe_every=0,
        save_every=args.save_every, accumulate=1, gradient_checkpointing=False,
    )  # fmt: skip


def commands(
    rows: Sequence[Episode], bundle: Bundle, count: int, rng: random.Random
) -> Iterator[tuple[Command, Episode, bool]]:
    """Commands over inputs of the rows, each with its row and whether the answer is to be on topic."""
    usable = [row for row in rows if row.task in TASKS and row.method != "mismatched"]
    if not usable:
        raise TrainingError(f"the episodes hold no rows of {', '.join(TASKS)}, whose answers are sentences")
    for row in rng.choices(usable, k=count):
        low, high = bundle.support.length_range(row.task) or (1, row.words)
        length = round(np.exp(rng.uniform(np.log(max(low, 1)), np.log(high))))
        cell = bundle.support.cell(row.task, length)
        free = cell is None or rng.random() < FREE
        on_topic = free or rng.random() < ON_TOPIC
        relevance = None
        if cell is not None and not free:
            limits = (cell.p50, min(1.0, cell.p95 + 0.05)) if on_topic else (cell.p05, cell.p50)
            relevance = rng.uniform(*limits)
        yield Command(row.task, row.modality, relevance, length), row, on_topic


def _rollouts(
    path: Path, bundle: Bundle, rows: Sequence[Episode], sense: Sense, args: argparse.Namespace
) -> list[list[Rollout]]:
    """The answers to each command, kept on disk."""
    asked = list(commands(rows, bundle, args.rollouts, random.Random(args.seed)))
    wanted = [[bundle.version, args.n, row.input, *asdict(command).values()] for command, row, _ in asked]
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if [line["asked"] for line in lines] != wanted:
            raise TrainingError(f"{path} is of other commands, inputs or weights: give another --out")
        answers = [line["answers"] for line in lines]
    else:
        prompts = [(command, row.input) for command, row, _ in asked]
        answers = improve.generate(bundle, prompts, args.threads, args.seed, args.n)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            for line, texts in zip(wanted, answers, strict=True):
                file.write(json.dumps({"asked": line, "answers": texts}) + "\n")
        partial.replace(path)
    found = [
        [
            Rollout(
                command, row.input, output, ended,
                tuple((s, bool(faults)) for s, faults in sense.sentences(row.input, output, on_topic=on_topic)),
            )
            for output, ended in texts
        ]
        for (command, row, on_topic), texts in zip(asked, answers, strict=True)
    ]  # fmt: skip
    sentences = [fault for group in found for rollout in group for _, fault in rollout.sentences]
    whole = [any(fault for _, fault in rollout.sentences) for group in found for rollout in group]
    log.info(
        "%d answers, %.0f %% without a fault; %.1f %% of %d sentences have one",
        *(len(whole), 100 * (1 - np.mean(whole)), 100 * np.mean(sentences), len(sentences)),
    )
    return found


def gained(groups: Sequence[Sequence[Rollout]], tokenizer: PromptTokenizer) -> list[Row]:
    """Rows of the answers, their tokens with advantages in standard deviations; where all sentences of a
    command's answers are alike, there is nothing to learn.

    First sentences, which tell what the input says, are held against first ones, the others against the others: what is
    hard to tell is no worse for that.
    """
    rows, gains = [], []
    for group in groups:
        rewards = [[-float(fault) for _, fault in rollout.sentences] for rollout in group]
        together = [reward for each in rewards for reward in each]
        if len(set(together)) < 2:
            continue
        usual = float(np.mean([each[0] for each in rewards if each]))
        usual_later = float(np.mean([reward for each in rewards for reward in each[1:]] or [0.0]))
        mean = float(np.mean(together))
        for rollout, own in zip(group, rewards, strict=True):
            if not own or not rollout.ended:
                continue
            whole = WHOLE * (float(np.mean(own)) - mean)
            better = [own[0] - usual, *(reward - usual_later for reward in own[1:])]
            ahead = [*(NEXT * gain for gain in better[1:]), 0.0]
            advantages = [gain + after + whole for gain, after in zip(better, ahead, strict=True)]
            ids, places = tokenizer.encode_with_places(rollout.output)
            starts = _starts(rollout)
            of_tokens = [advantages[max(0, int(np.searchsorted(starts, p, "right")) - 1)] for p in places]
            rows.append(Row(rollout.command, tokenizer.encode(rollout.input), [*ids, tokenizer.end_id]))
            gains.append([*of_tokens, whole])
    spread = float(np.std([gain for each in gains for gain in each])) if gains else 1.0
    return [
        Row(row.command, row.input, row.output, [gain / spread for gain in each])
        for row, each in zip(rows, gains, strict=True)
    ]


def _starts(rollout: Rollout) -> list[int]:
    """Where each sentence begins, in characters."""
    starts, place = [], 0
    for sentence, _ in rollout.sentences:
        place = max(place, rollout.output.find(sentence, place))
        starts.append(place)
        place += len(sentence)
    return starts
