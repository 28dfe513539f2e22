"""`python -m training judge EPISODES_OR_PAIRS --judge URL --out verdicts.parquet`: a verdict on every row."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from promptdial.relevance import load_scorer
from training.episodes import read_episodes, read_file
from training.errors import TrainingError
from training.evaluation.answers import score
from training.evaluation.subjects import digest
from training.judge import report, verdicts
from training.judge.verdicts import OK, Judge, Judged, Pair
from training.sources import read_rows
from training.teacher import options
from training.teacher.asking import Asking
from training.teacher.endpoint import Endpoint, Unanswered
from training.teacher.journal import Journal

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """What the command does."""
    pairs = _chosen(read_pairs(args.rows), args.count)
    endpoint = options.endpoint(args.judge, args)
    with opened(endpoint, args.model, args.cache, args.json_mode) as judge:
        judged = asyncio.run(judge.judge(pairs, args.concurrency))
        judged = with_embedding(judged, args.scorer, args.threads)
        verdicts.write(args.out, judged)
        facts = report.write(args.out, judge, judged)
    log.info("%s; wrote %s and %s", facts["status"], args.out, args.out.with_suffix(".md"))
    if not any(each.status == OK for each in judged):
        raise TrainingError(f"no verdict can be used: {args.out.with_suffix('.md')} counts the reasons")


@contextmanager
def opened(endpoint: Endpoint, model: str | None, cache: Path, json_mode: bool) -> Iterator[Judge]:
    """A judge with its cache, which no other process may use meanwhile."""
    journal = Journal(cache)
    try:
        yield Judge(Asking(endpoint, journal, "judge"), model or first_model(endpoint), json_mode)
    finally:
        journal.close()


def first_model(endpoint: Endpoint) -> str:
    """The first model that the endpoint lists. Raises TrainingError."""
    return str(asyncio.run(first_listed(endpoint))["id"])


async def first_listed(endpoint: Endpoint) -> dict[str, object]:
    """What the endpoint says of the first model that it lists."""
    async with endpoint.client() as client:
        try:
            listed = await endpoint.models(client)
        except Unanswered as error:
            raise TrainingError(f"{endpoint.url}/models: {error}; is it up? Or name the model") from error
    if not listed or not isinstance(listed[0].get("id"), str):
        raise TrainingError(f"{endpoint.url}/models lists no model: name it")
    return listed[0]


def read_pairs(path: Path) -> list[Pair]:
    """Every different pair of an episodes folder, a Parquet file of episodes, or a file of pairs (JSON lines)."""
    if path.is_dir():
        rows = [episode for split in ("train", "validation") for episode in read_episodes(path, split)]
        found = [(episode.input, episode.output) for episode in rows]
    elif path.suffix == ".parquet":
        found = [(episode.input, episode.output) for episode in read_file(path)]
    elif path.is_file():
        found = [(row["input"], row["output"]) for row in read_rows(path, ("input", "output"))]
    else:
        raise TrainingError(f"{path}: no episodes folder, Parquet file or file of pairs")
    if not found:
        raise TrainingError(f"{path} holds no rows")
    return list(dict.fromkeys(found))


def _chosen(pairs: list[Pair], count: int | None) -> list[Pair]:
    """All, or `count` by the hash of their text: more later are the same ones and others."""
    return pairs if count is None else sorted(pairs, key=lambda pair: digest(*pair))[:count]


def with_embedding(judged: Sequence[Judged], scorer: Path | None, threads: int) -> list[Judged]:
    """The same with the embedding scorer's relevance."""
    found = score(load_scorer(scorer), [e.input for e in judged], [e.output for e in judged], threads)
    return [replace(each, embedding=value) for each, value in zip(judged, found, strict=True)]
