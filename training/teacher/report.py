"""What a run asked, got, paid and kept: a line while it goes; at its end `REPORT.md`, `report.json`, Parquet shards."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.card import LENGTHS, RELEVANCES, slot
from training.teacher.answers import Verdict
from training.teacher.inputs import Request
from training.teacher.journal import Answer

SHARD_ROWS = 50_000


@dataclass
class Tally:
    """Counts of a run, those of earlier starts of it included where the journal knows them."""

    planned: int
    price_in: float = 0.0
    price_out: float = 0.0
    answers: int = 0
    before: int = 0  # answers that an earlier start got
    prompt_tokens: int = 0
    completion_tokens: int = 0
    new_completion_tokens: int = 0
    truncated: int = 0  # answers that ended at their token limit
    estimated: int = 0  # answers whose tokens the server did not count
    cut: int = 0  # accepted answers that lost sentences
    served: Counter[str] = field(default_factory=Counter)  # answers by the model that the server names
    given_up: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    by_template: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    cells: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def answered(self, answer: Answer) -> None:
        """Count one new answer."""
        self._count(answer)
        self.new_completion_tokens += answer.completion_tokens

    def resumed(self, answers: Sequence[Answer]) -> None:
        """Count the answers of earlier starts."""
        for answer in answers:
            self._count(answer)
        self.before = len(answers)
        self.started = time.monotonic()

    def _count(self, answer: Answer) -> None:
        self.answers += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.truncated += answer.finish_reason == "length"
        self.estimated += not answer.counted
        self.served[answer.served_model] += 1

    def judged(
        self, request: Request, answer: Answer, verdict: Verdict, words: int, relevance: float
    ) -> None:
        """Count what became of one answer."""
        self.by_template[request.template][verdict.reason or "accepted"] += 1
        self.reasons[verdict.reason or "accepted"] += 1
        if not verdict.reason:
            self.cut += verdict.cut
            self.cells[request.template, slot(LENGTHS, words), slot(RELEVANCES, relevance)] += 1

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens, as the server counted them; estimates where it did not."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> float:
        """Price of all tokens."""
        return (self.prompt_tokens * self.price_in + self.completion_tokens * self.price_out) / 1e6

    @property
    def elapsed_s(self) -> float:
        """Seconds since asking began."""
        return time.monotonic() - self.started

    def line(self, outcomes: Counter[str]) -> str:
        """Progress in one line."""
        new = self.answers - self.before
        rate = new / max(self.elapsed_s, 1e-6)
        left = (self.planned - self.answers) / rate if rate else float("inf")
        judged = max(1, self.reasons.total())
        retries = outcomes.total() - outcomes["200"]
        return (
            f"{self.answers:,} of {self.planned:,} answered, {self.reasons['accepted']:,} accepted "
            f"({self.reasons['accepted'] / judged:.0%}), {rate:.1f} a second, "
            f"{self.new_completion_tokens / max(self.elapsed_s, 1e-6):.0f} tokens a second, {retries} failed attempts, "
            f"cost {self.cost:.2f}, " + (f"{left / 60:.0f} min left" if rate else "no answer yet")
        )


def write(out: Path, tally: Tally, outcomes: Counter[str], teacher: dict[str, Any], stopped: str) -> None:
    """The shards, `report.json` and `REPORT.md` of a run in its folder."""
    _shards(out)
    facts = {
        "teacher": teacher,
        "stopped": stopped or ("all asked" if tally.answers >= tally.planned else "with requests left"),
        "planned": tally.planned,
        "answered": tally.answers,
        "answered_before": tally.before,
        "served_models": dict(tally.served),
        "attempts": dict(outcomes),
        "given_up": dict(tally.given_up),
        "truncated": tally.truncated,
        "accepted": tally.reasons["accepted"],
        "accepted_cut": tally.cut,
        "reasons": dict(tally.reasons),
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "tokens_estimated": tally.estimated,
        "cost": round(tally.cost, 4),
        "seconds": round(tally.elapsed_s, 1),
        "templates": {name: dict(counts) for name, counts in sorted(tally.by_template.items())},
    }
    (out / "report.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (out / "REPORT.md").write_text("\n".join([*_summary(facts), *_yield(tally), *_coverage(tally)]) + "\n")


def _summary(facts: dict[str, Any]) -> list[str]:
    teacher = facts["teacher"]
    attempts = ", ".join(f"{name}: {count}" for name, count in sorted(facts["attempts"].items())) or "none"
    served = ", ".join(f"{name} ({count})" for name, count in facts["served_models"].items()) or "none"
    lost = ", ".join(f"{name}: {count}" for name, count in sorted(facts["given_up"].items())) or "none"
    return [
        f"# Distilled from {teacher['model']}",
        "",
        f"Sampling: {json.dumps(teacher['sampling'])}. Licence of the rows: {teacher['licence']}.",
        "",
        f"- {facts['answered']} of {facts['planned']} requests answered, {facts['answered_before']} of them by earlier "
        f"starts of this run; ended: {facts['stopped']}",
        f"- attempts of this start by outcome: {attempts}; requests given up: {lost}",
        f"- {facts['prompt_tokens']} prompt and {facts['completion_tokens']} completion tokens, cost {facts['cost']}; "
        f"of {facts['tokens_estimated']} answers estimated at four characters a token, since the server counted none",
        f"- models that the server named: {served}",
        f"- {facts['accepted']} rows accepted, {facts['accepted_cut']} of them cut back; {facts['truncated']} answers "
        "ended at their token limit",
        f"- {facts['seconds']} s in this start",
    ]


def _yield(tally: Tally) -> list[str]:
    reasons = [name for name, _ in tally.reasons.most_common() if name != "accepted"]
    lines = ["", "## Yield", "", "| template | accepted | share | " + " | ".join(reasons) + " |"]
    lines.append("|---|" + "---:|" * (2 + len(reasons)))
    for name, counts in sorted(tally.by_template.items()):
        cells = [f"{counts['accepted'] / counts.total():.0%}", *(str(counts[reason]) for reason in reasons)]
        lines.append(f"| {name} | {counts['accepted']} | " + " | ".join(cells) + " |")
    return lines


def _coverage(tally: Tally) -> list[str]:
    headings = [f"{low:.1f}-{min(high, 1.0):.1f}" for low, high in RELEVANCES]
    lines = ["", "## Coverage", "", "Accepted rows by words and relevance achieved.", ""]
    lines += ["| template | words | " + " | ".join(headings) + " |", "|---|---|" + "---:|" * len(headings)]
    for name, length in sorted({key[:2] for key in tally.cells}):
        low, high = LENGTHS[length]
        span = f"{low}-{high}" if length < len(LENGTHS) - 1 else f"{low} and more"
        cells = " | ".join(str(tally.cells[name, length, r]) for r in range(len(RELEVANCES)))
        lines.append(f"| {name} | {span} | {cells} |")
    return lines


def _shards(out: Path) -> None:
    """The rows as Parquet, in pieces of SHARD_ROWS; pieces of an earlier start are replaced."""
    path = out / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    folder = out / "shards"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    for number, first in enumerate(range(0, len(rows), SHARD_ROWS)):
        table = pa.Table.from_pylist(rows[first : first + SHARD_ROWS])
        pq.write_table(table, folder / f"pairs-{number:05d}.parquet", compression="zstd")
