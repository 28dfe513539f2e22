"""`python -m training compare --baseline NAME=URL --student BUNDLE`: the table of the paper, made by one command.

Every answer is in a journal of the output folder: the same command, run again after a kill, asks for nothing twice.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from promptdial.relevance import load_scorer
from training.compare import baselines, report, student, tasks
from training.compare.baselines import Answers
from training.compare.figures import answered, compare
from training.compare.report import Facts
from training.compare.student import Student
from training.compare.tasks import Group, Manner
from training.episodes import read_episodes
from training.errors import TrainingError
from training.evaluation import answers, subjects
from training.judge import run as judging
from training.judge.verdicts import OK
from training.teacher import options, templates

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """What the command does."""
    given = _baselines(args)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    manner = Manner(args.temperature, args.top_p, args.seed, args.examples)
    loaded = templates.load_all(args.templates or templates.FOLDER)
    with student.opened(args.student, args.threads) as own:
        groups = tasks.groups(own.usable(_subjects(args, own)), loaded, args.inputs)
        systems = [
            baselines.ask(name, options.endpoint(url, args), args.model.get(name), args.parameters.get(name), groups,
                          manner, args.concurrency, out / f"answers-{name}.jsonl")
            for name, url in given.items()
        ]  # fmt: skip
        everything = [subject for group in groups for subject in group.subjects]
        systems.append(student.ask(own, everything, args.seed, out / "answers-student.jsonl"))
    kept = tasks.enough([answered(group, systems) for group in groups])
    judged, about = _judged(args, kept, systems)
    score = partial(answers.score, load_scorer(args.scorer), threads=args.threads)
    found = [compare(group, systems, score, judged) for group in kept]
    facts = Facts(
        str(args.pairs.name) if args.pairs else "validation episodes",
        "cosine of the embedding scorer" + ("; the judge's beside it" if about else ""),
        about,
        asdict(manner),
        args.concurrency,
        own.where,
        f"{platform.machine()}, {os.cpu_count()} CPUs",
    )
    left_out = len(everything) - sum(len(group.subjects) for group in kept)
    report.write(out, found, systems, facts, left_out)
    log.info("wrote %s", out / "report.html")


def _baselines(args: argparse.Namespace) -> dict[str, str]:
    """The baselines by name. Raises TrainingError for a name that can't be used or isn't a baseline's."""
    given = dict(args.baseline)
    if len(given) < len(args.baseline):
        raise TrainingError("two baselines have one name")
    args.model, args.parameters = dict(args.model), dict(args.parameters)
    for name in given:
        if name in (student.NAME, "reference") or not name.replace("-", "").replace(".", "").isalnum():
            raise TrainingError(f"{name!r} is no name for a baseline: letters, digits, '-' and '.'")
    for option in ("model", "parameters"):
        if unknown := sorted(set(getattr(args, option)) - set(given)):
            raise TrainingError(f"--{option} {unknown[0]}=...: there is no baseline of that name")
    return given


def _subjects(args: argparse.Namespace, own: Student) -> list[subjects.Subject]:
    if args.pairs:
        return subjects.from_pairs(args.pairs, own.tasks, own.modalities)
    return subjects.from_episodes(read_episodes(args.episodes, "validation"))


def _judged(
    args: argparse.Namespace, groups: Sequence[Group], systems: Sequence[Answers]
) -> tuple[dict[tuple[str, str], float] | None, dict[str, Any] | None]:
    """The judge's relevance of every text and reference by pair, and what is said of the judge; or nothing."""
    if not args.judge:
        return None, None
    texts = [(s.input, text) for group in groups for s in group.subjects
             for text in (s.reference, *(system.text(s) for system in systems))]  # fmt: skip
    own = argparse.Namespace(**{**vars(args), "api_key_env": args.judge_api_key_env})
    with judging.opened(
        options.endpoint(args.judge, own), args.judge_model, args.cache, args.json_mode
    ) as judge:
        found = asyncio.run(judge.judge(texts, args.judge_concurrency))
    usable = {(each.input, each.output): each for each in found if each.status == OK}
    unusable = len({(each.input, each.output) for each in found} - set(usable))
    apart = sum(each.disagreement for each in usable.values()) / max(1, len(usable))
    about = {
        "model": judge.model,
        "texts": len(usable),
        "without a usable verdict": unusable,
        "mean difference of the two orders": round(apart, 3),
    }
    return {pair: each.relevance for pair, each in usable.items()}, about
