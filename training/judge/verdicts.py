"""Verdicts on pairs: asked for once, averaged over the two orders, stored as Parquet, and used as labels.

Answers are cached by the hash of all that was sent, in a journal that outlives kills and is shared by runs. At
temperature 0 a second question would bring the same answer, so a malformed one is kept too: counted, never a label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.episodes import Episode
from training.errors import TrainingError
from training.judge import rubric
from training.judge.rubric import Malformed
from training.teacher.asking import Asking
from training.teacher.journal import request_key

Pair = tuple[str, str]  # input, output
OK, MALFORMED, UNANSWERED = "ok", "malformed", "unanswered"
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Judged:
    """One pair with its verdict. All figures are nan unless the status is `ok`.

    relevance: mean of both orders, 0-1; first, second: of each; disagreement: |first - second|. The criteria are means
    of both orders, 0-1, nan where they don't apply. embedding: the scorer's relevance of the same pair.
    """

    input: str
    output: str
    status: str
    model: str
    relevance: float = NAN
    first: float = NAN
    second: float = NAN
    disagreement: float = NAN
    entities: float = NAN
    attributes: float = NAN
    counts: float = NAN
    quoted_text: float = NAN
    consistent: float = NAN
    embedding: float = NAN


@dataclass
class Judge:
    """A model that judges, and what came of asking it: `malformed` answers by reason, requests, tokens.

    Of `estimated` answers the server counted no tokens.
    """

    asking: Asking
    model: str
    json_mode: bool = False
    malformed: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    tokens: int = 0
    estimated: int = 0

    async def judge(self, pairs: Sequence[Pair], concurrency: int) -> list[Judged]:
        """A verdict on each pair, in their order; a pair that comes again is asked about once."""
        bodies: dict[str, dict[str, Any]] = {}
        keys: dict[Pair, list[str]] = {}
        for pair in dict.fromkeys(pairs):
            asked = [rubric.body(self.model, *pair, order, self.json_mode) for order in rubric.ORDERS]
            keys[pair] = [request_key(body) for body in asked]
            bodies.update(zip(keys[pair], asked, strict=True))
        answers = await self.asking.ask(bodies, concurrency)
        self.requests += len(bodies)
        self.tokens += sum(each.prompt_tokens + each.completion_tokens for each in answers.values())
        self.estimated += sum(not each.counted for each in answers.values())
        texts = {key: answer.text for key, answer in answers.items()}
        found = {pair: self._judged(pair, [texts.get(key) for key in own]) for pair, own in keys.items()}
        return [found[pair] for pair in pairs]

    def _judged(self, pair: Pair, answers: Sequence[str | None]) -> Judged:
        verdicts = []
        for text in answers:
            try:
                verdicts.append(None if text is None else rubric.parse(text))
            except Malformed as error:
                self.malformed[str(error)] += 1
                verdicts.append(None)
        whole = [verdict for verdict in verdicts if verdict is not None]
        if len(whole) < len(verdicts):
            return Judged(*pair, UNANSWERED if None in answers else MALFORMED, self.model)
        first, second = (verdict.relevance for verdict in whole)
        criteria = [_mean([getattr(verdict, name) for verdict in whole]) for name in rubric.FIELDS]
        mean, apart = (first + second) / 2, abs(first - second)
        return Judged(*pair, OK, self.model, mean, first, second, apart, *criteria)


def _mean(points: Sequence[int | None]) -> float:
    found = [each for each in points if each is not None]
    return sum(found) / len(found) / rubric.HIGHEST if found else NAN


def write(path: Path, judged: Sequence[Judged]) -> None:
    """One Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist([asdict(each) for each in judged]), partial, compression="zstd")
    partial.replace(path)


def read(path: Path) -> list[Judged]:
    """What `write` wrote. Raises TrainingError naming the file."""
    try:
        return [Judged(**row) for row in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise TrainingError(f"{path} holds no verdicts ({error}): make it with `training judge`") from error


def labels(path: Path) -> dict[Pair, float]:
    """The relevance of every pair whose verdict can be used. Raises TrainingError when there is none."""
    judged = read(path)
    found = {
        (e.input, e.output): e.relevance for e in judged if e.status == OK and math.isfinite(e.relevance)
    }
    if not found:
        raise TrainingError(f"{path}: none of its {len(judged)} verdicts can be used")
    return found


def blend(
    episodes: Sequence[Episode], labels: Mapping[Pair, float], share: float
) -> tuple[list[Episode], int]:
    """Episodes whose relevance is `share` of the judge's and the rest of their own, and how many that are.

    Episodes without a verdict stay as they are.
    """
    blended, count = [], 0
    for episode in episodes:
        judged = labels.get((episode.input, episode.output))
        if judged is not None:
            count += 1
            blended.append(replace(episode, relevance=share * judged + (1 - share) * episode.relevance))
        else:
            blended.append(episode)
    return blended, count
