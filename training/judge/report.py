"""Whether judge and embedding scorer agree: rank correlation, a scatter plot, and where they are furthest apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.evaluation import intervals, plots
from training.evaluation.document import Block, Document, Heading, Image, Paragraph, Sample, Samples, Table
from training.evaluation.intervals import Estimate, Indices
from training.evaluation.verdict import show
from training.judge import rubric
from training.judge.verdicts import OK, Judge, Judged

RESAMPLES = 500
APART = 10  # pairs shown


def write(path: Path, judge: Judge, judged: Sequence[Judged]) -> dict[str, Any]:
    """`NAME.md`, `.html`, `.json` and `.png` beside the verdicts `NAME.parquet`; what the JSON says."""
    usable = [each for each in judged if each.status == OK]
    facts = {
        "model": judge.model,
        "pairs": len(judged),
        "status": dict(Counter(each.status for each in judged)),
        "requests": judge.requests,
        "requests_of_this_run": judge.asking.new,
        "attempts": dict(judge.asking.endpoint.outcomes),
        "given_up": dict(judge.asking.given_up),
        "malformed_answers": dict(judge.malformed),
        "tokens": judge.tokens,
        "tokens_estimated": judge.estimated,
    }
    document = Document(f"Verdicts of {judge.model}")
    document.add(*_counts(facts))
    if usable:
        facts |= _agreement(usable)
        scatter(usable, path.with_suffix(".png"))
        document.add(*_figures(usable, path.with_suffix(".png")))
    path.with_suffix(".md").write_text(document.markdown(), encoding="utf-8")
    path.with_suffix(".html").write_text(document.html(), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def spearman(judged: Sequence[Judged]) -> Estimate:
    """Rank correlation of the judge's and the scorer's relevance, with its interval over pairs."""
    own, other = (np.array([getattr(each, name) for each in judged]) for name in ("relevance", "embedding"))

    def of(chosen: Indices) -> float:
        return intervals.spearman(own[chosen], other[chosen])

    return intervals.statistic([(of, len(judged))], RESAMPLES)


def _agreement(usable: Sequence[Judged]) -> dict[str, Any]:
    return {
        "spearman": spearman(usable).to_json(),
        "disagreement_of_orders": intervals.mean([each.disagreement for each in usable]).to_json(),
        "relevance": intervals.mean([each.relevance for each in usable]).to_json(),
        "embedding": intervals.mean([each.embedding for each in usable]).to_json(),
    }


def _counts(facts: dict[str, Any]) -> Iterator[Block]:
    def listed(name: str) -> str:
        return ", ".join(f"{key}: {count}" for key, count in sorted(facts[name].items())) or "none"

    yield Paragraph(
        f"{facts['pairs']} pairs ({listed('status')}), {facts['requests']} requests, {facts['requests_of_this_run']} "
        f"of them new in this run; {facts['tokens']} tokens, estimated of {facts['tokens_estimated']} answers. "
        f"Attempts of this run: {listed('attempts')}; given up: {listed('given_up')}. "
        f"Malformed answers: {listed('malformed_answers')}. Pairs that are not ok are no labels."
    )


def _figures(usable: Sequence[Judged], picture: Path) -> Iterator[Block]:
    yield Heading("Agreement with the embedding scorer")
    yield Paragraph(
        f"Spearman {show(spearman(usable), 2)} over {len(usable)} pairs. The two orders of the same pair differ by "
        f"{show(intervals.mean([each.disagreement for each in usable]))} in the mean."
    )
    yield Image(picture, "relevance by the judge against relevance by the embedding scorer")
    yield Heading("Criteria")
    rows = [_row(usable, name) for name in (*rubric.FIELDS, "relevance", "embedding")]
    yield Table(["", "mean, 0–1", "pairs that it applies to"], rows)
    yield Heading(f"Furthest apart, {APART} at most")
    ordered = sorted(usable, key=lambda each: -abs(each.relevance - each.embedding))
    yield Samples([
        Sample(each.input, "input", each.output, f"judge {each.relevance:.2f}, embedding {each.embedding:.2f}")
        for each in ordered[:APART]
    ])  # fmt: skip


def _row(judged: Sequence[Judged], name: str) -> list[str]:
    """A figure with its mean, as far as it applies."""
    values = np.array([getattr(each, name) for each in judged], float)
    count = int(np.isfinite(values).sum())
    return [name, show(intervals.mean(values)) if count else "–", str(count)]


def scatter(judged: Sequence[Judged], path: Path) -> None:
    """A dot per pair."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=plots.GREY, linewidth=0.8, linestyle=":")
    axis.scatter(
        [each.embedding for each in judged],
        [each.relevance for each in judged],
        s=14, color=plots.BLUE, alpha=max(0.1, min(0.7, 60 / len(judged))), linewidths=0,
    )  # fmt: skip
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.set_xlabel("relevance by the embedding scorer")
    axis.set_ylabel("relevance by the judge, mean of two orders")
    axis.set_title(f"{len(judged)} pairs, Spearman {spearman(judged).value:.2f}", loc="left", fontsize=10)
    figure.savefig(path, dpi=plots.DPI)
