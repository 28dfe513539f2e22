"""`python -m training score FILE --out FILE`: label pairs with the relevance and length that they have.

Rows are JSON objects with `input` and `output`, one a line; they come out in the same order with `relevance` and
`words`. A run that was interrupted goes on behind the rows that it had written.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from promptdial.command import word_count
from promptdial.relevance import RelevanceScorer, load_scorer
from training.errors import TrainingError

log = logging.getLogger(__name__)

SCORED_TOGETHER = 20_000


def run(args: argparse.Namespace) -> None:
    """What the command does."""
    with scorer_for(args) as scorer:
        label(args.pairs, args.out, scorer)


@contextmanager
def scorer_for(args: argparse.Namespace) -> Iterator[RelevanceScorer]:
    """The scorer that the command line names: in this process, or with `--ray` on a cluster."""
    if not args.ray:
        yield load_scorer(args.scorer, args.threads)
        return
    from training import cluster  # noqa: PLC0415 (needs the extra `ray`)

    with cluster.connected(args.ray, args.ray_workers) as workers:
        yield cluster.ClusterScorer(args.scorer, workers)


def label(source: Path, target: Path, scorer: RelevanceScorer) -> None:
    """Write the rows of `source` with their labels to `target`, which is there once all of them are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    written = _whole_lines(partial)
    done = len(written)
    rows = _rows(source)
    for before, row in zip(written, islice(rows, done), strict=False):
        if json.loads(before) != row | {name: json.loads(before)[name] for name in ("relevance", "words")}:
            raise TrainingError(f"{partial} holds rows that {source} does not begin with: remove it")
    with partial.open("a", encoding="utf-8") as file:
        while part := list(islice(rows, SCORED_TOGETHER)):
            relevance = scorer.score([row["input"] for row in part], [row["output"] for row in part])
            for row, value in zip(part, relevance, strict=True):
                labelled = row | {"relevance": round(value, 3), "words": word_count(row["output"])}
                file.write(json.dumps(labelled, ensure_ascii=False) + "\n")
            file.flush()
            done += len(part)
            log.info("%d rows scored", done)
    partial.replace(target)
    log.info("wrote %s", target)


def _whole_lines(path: Path) -> list[bytes]:
    """The rows that an earlier start has written; a line that was cut off is removed."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    with path.open("r+b") as file:
        file.truncate(whole)
    return content[:whole].splitlines()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file. Raises TrainingError naming file and line."""
    if not path.is_file():
        raise TrainingError(f"{path} is missing")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TrainingError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise TrainingError(f"{path}, line {number}: a row must be an object")
            for name in ("input", "output"):
                if not isinstance(row.get(name), str):
                    raise TrainingError(f"{path}, line {number}: field {name!r} is missing or no text")
            yield row
