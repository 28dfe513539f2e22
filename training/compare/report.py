"""The comparison as Markdown, HTML, JSON and plots: what the paper's table says, then how sure it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from training.compare import figures
from training.compare.baselines import Answers
from training.compare.figures import Compared, Measured
from training.compare.student import NAME as STUDENT
from training.evaluation import intervals, plots, quality, verdict
from training.evaluation.comparison import Difference
from training.evaluation.document import Block, Cell, Document, Heading, Image, Mark, Paragraph, Table
from training.evaluation.intervals import Estimate, Floats
from training.evaluation.quality import REFERENCE
from training.evaluation.verdict import show

# The paper's claims: relevance within 5 %, and variety within 6 %, of models of 8B parameters.
BARS = {
    figures.RATIO: verdict.RELEVANCE_BARS[0] - 1,
    f"{figures.DISTINCT}, ÷ the baseline's, − 1": verdict.DIVERSITY_BAR - 1,
    f"{figures.DIVERSITY}, ÷ the baseline's, − 1": verdict.DIVERSITY_BAR - 1,
}


@dataclass(frozen=True)
class Facts:
    """What the report says of how the comparison was made."""

    inputs: str
    scorer: str
    judge: dict[str, Any] | None
    manner: dict[str, Any]
    concurrency: int
    student: str  # where it wrote
    machine: str


def write(
    out: Path, found: Sequence[Compared], systems: Sequence[Answers], facts: Facts, left_out: int
) -> None:
    """`report.md`, `report.html`, `report.json`, `answers.jsonl` and the plots into `out`."""
    (out / "report.json").write_text(
        json.dumps(as_json(found, systems, facts, left_out), indent=1), encoding="utf-8"
    )
    lines = [json.dumps(row, ensure_ascii=False) for each in found for row in _rows(each)]
    (out / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = Document(f"{systems[-1].model} beside {', '.join(each.name for each in systems[:-1])}")
    document.add(*_how(found, facts, left_out), *_verdicts(found), *_sizes(systems))
    overview(found, out / "overview.png")
    document.add(Image(out / "overview.png", "relevance, variety, length and time of every system"))
    for each in found:
        document.add(*_table(each))
    for each in found:
        document.add(*_differences(each, out))
    (out / "report.md").write_text(document.markdown(), encoding="utf-8")
    (out / "report.html").write_text(document.html(), encoding="utf-8")


def _how(found: Sequence[Compared], facts: Facts, left_out: int) -> Iterator[Block]:
    manner = ", ".join(f"{name} {value}" for name, value in facts.manner.items())
    yield Paragraph(
        f"Inputs: {facts.inputs}; {sum(each.inputs for each in found)} inputs that every system answered, {left_out} "
        f"left out. Every system is asked once for a text of the reference's length: baselines by one instruction per "
        f"task ({manner}), the student by the highest supported relevance at its default sampling. Relevance: "
        f"{facts.scorer}. Intervals are 95 %, over inputs, which student and baseline share."
    )
    yield Paragraph(
        f"Times are the client's, from sending to the first piece of text and to the end, of attempts that brought an "
        f"answer; {facts.concurrency} at a time for baselines, 1 for the student ({facts.student}). Made on "
        f"{facts.machine}. Where the endpoints run is not known here: times of different machines don't compare."
    )
    if facts.judge:
        yield Paragraph("Judge: " + ", ".join(f"{name} {value}" for name, value in facts.judge.items()) + ".")


def _verdicts(found: Sequence[Compared]) -> Iterator[Block]:
    yield Heading("Verdict")
    yield Paragraph(
        "The bars are the paper's claims: relevance within 5 % and variety within 6 % of the large model's "
        "(✓ reached, ✗ missed; ≈ the interval holds both outcomes)."
    )
    rows: list[list[Cell]] = []
    for each in found:
        for name, differences in each.differences.items():
            by_label = {difference.figure: difference.difference for difference in differences}
            rows.append(
                [each.group.name, name, *(_marked(by_label[label], bar) for label, bar in BARS.items())]
            )
    header = ["", "baseline", "relevance ÷ the baseline's", "distinct-2 ÷", "1 − self-BLEU ÷"]
    yield Table(header, rows, texts=2)


def _marked(found: Estimate, bar: float) -> Mark:
    good = found.value >= bar
    close = " ≈" if found.low < bar <= found.high else ""
    ratio = Estimate(found.value + 1, found.low + 1, found.high + 1)
    return Mark(f"{'✓' if good else '✗'}{close} {show(ratio)}", good)


def _sizes(systems: Sequence[Answers]) -> Iterator[Block]:
    own = systems[-1].parameters
    yield Heading("Systems")
    rows = [
        [each.name, each.model, _count(each.parameters), _size_ratio(own, each.parameters)]
        for each in systems
    ]
    yield Table(["", "model", "parameters", "÷ the student's"], rows, texts=2)


def _count(parameters: float | None) -> str:
    return "not told" if parameters is None else f"{parameters / 1e6:,.1f}M"


def _size_ratio(own: float | None, other: float | None) -> str:
    return "–" if own is None or other is None else f"{other / own:,.0f}"


def _table(found: Compared) -> Iterator[Block]:
    yield Heading(f"{found.group.name}: {found.inputs} inputs")
    systems = list(found.systems.values())
    reference = found.systems[REFERENCE]
    rows: list[list[Cell]] = []
    for label in systems[0].per_input():
        digits = 1 if label == figures.WORDS else 3
        rows.append([label, *(show(intervals.mean(each.per_input()[label]), digits) for each in systems)])
    rows[1:1] = [[label, *cells] for label, cells in _beside(systems, reference)]
    for label, name in ((figures.FIRST, "first_s"), (figures.TOTAL, "total_s")):
        rows.append(
            [f"{label}: median (90th percentile)", *(_times(getattr(each, name)) for each in systems)]
        )
    yield Table(["", *(each.name for each in systems)], rows)


def _beside(systems: Sequence[Measured], reference: Measured) -> Iterator[tuple[str, list[Cell]]]:
    """Ratios to the references, the sets of texts at equal word count."""
    everything = np.arange(len(reference.words))
    base = reference.system.per_input[quality.RELEVANCE]
    ratios = [intervals.ratio(each.system.per_input[quality.RELEVANCE], base) for each in systems]
    yield "relevance, ÷ the references'", [show(ratio) for ratio in ratios]
    yield (
        "distinct-2, ÷ the references'",
        [f"{each.system.distinct_ratio(everything):.3f}" for each in systems],
    )
    yield (
        "1 − self-BLEU, ÷ the references'",
        [f"{each.system.diversity_ratio(everything):.3f}" for each in systems],
    )


def _times(seconds: Floats) -> str:
    found = seconds[~np.isnan(seconds)]
    if not len(found):
        return "–"
    return f"{np.median(found):.3f} ({np.percentile(found, 90):.3f})"


def _differences(found: Compared, out: Path) -> Iterator[Block]:
    for name, differences in found.differences.items():
        yield Heading(f"{found.group.name}: {STUDENT} − {name}")
        picture = out / f"difference-{found.group.template.name}-{name}.png"
        drawn = [each for each in differences if each.figure not in (figures.FIRST, figures.TOTAL)]
        plots.comparison(drawn, (STUDENT, name), picture)
        yield Image(picture, f"differences between the student and {name} with intervals")
        yield Table(
            ["figure", STUDENT, name, "difference"],
            [[each.figure, f"{each.first:.3f}", f"{each.second:.3f}", _shown(each)] for each in differences],
        )


def _shown(each: Difference) -> Mark:
    if math.isnan(each.difference.value):
        return Mark("–")
    word = "no difference shown" if each.better is None else "better" if each.better else "worse"
    return Mark(f"{show(each.difference)} {word}", each.better)


def overview(found: Sequence[Compared], path: Path) -> None:
    """A dot per system and group: relevance, distinct-2, length, and time to the end (logarithmic)."""
    figure = Figure(figsize=(13, 0.9 + 0.42 * sum(len(each.systems) for each in found)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    places: list[str] = []
    for group in found:
        for number, each in enumerate(group.systems.values()):
            for axis, values in zip(axes, _drawn(each), strict=True):
                _dot(axis, values, len(places), number)
            places.append(f"{group.group.name}: {each.name}")
    titles = ("relevance", "distinct-2 ÷ the references'", "length within ±20 %", "whole text, s (median)")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left", fontsize=10)
    axes[0].set_yticks(range(len(places)), places, fontsize=8)
    axes[0].invert_yaxis()
    if any(np.isfinite(each.total_s).any() for group in found for each in group.systems.values()):
        axes[3].set_xscale("log")
        axes[3].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[3].xaxis.set_major_formatter("{x:g}")
        axes[3].xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=plots.DPI)


def _drawn(each: Measured) -> list[Estimate]:
    everything = np.arange(len(each.words))
    seconds = each.total_s[~np.isnan(each.total_s)]
    plain = [each.system.distinct_ratio(everything), float(np.median(seconds)) if len(seconds) else math.nan]
    distinct, time = (Estimate(value, math.nan, math.nan) for value in plain)
    relevance, within = (
        intervals.mean(each.system.per_input[name]) for name in (quality.RELEVANCE, quality.WITHIN_20)
    )
    return [relevance, distinct, within, time]


def _dot(axis: Any, found: Estimate, place: int, number: int) -> None:
    if math.isnan(found.value):
        return
    spread = None if math.isnan(found.low) else [[found.value - found.low], [found.high - found.value]]
    colour = plots.GREY if number == 0 else plots.COLOURS[(number - 1) % len(plots.COLOURS)]
    axis.errorbar([found.value], [place], xerr=spread, color=colour, marker="o", markersize=5, capsize=2)


def _rows(found: Compared) -> Iterator[dict[str, Any]]:
    for index, subject in enumerate(found.group.subjects):
        for name, each in found.systems.items():
            yield {
                "task": subject.task, "modality": subject.modality, "input": subject.input, "system": name,
                "text": each.system.texts[index][0], "asked_words": subject.reference_words,
                "words": int(each.words[index]), "relevance": round(float(each.system.relevance[index, 0]), 4),
                "judged": None if each.judged is None else _number(float(each.judged[index])),
                "first_s": _number(float(each.first_s[index])), "total_s": _number(float(each.total_s[index])),
            }  # fmt: skip


def as_json(
    found: Sequence[Compared], systems: Sequence[Answers], facts: Facts, left_out: int
) -> dict[str, Any]:
    """Everything that the report says, for programs."""
    own = systems[-1].parameters
    return {
        "inputs": facts.inputs, "left_out": left_out, "scorer": facts.scorer, "judge": facts.judge,
        "manner": facts.manner, "concurrency": facts.concurrency, "machine": facts.machine,
        "systems": {
            each.name: {
                "model": each.model, "parameters": each.parameters,
                "size_ratio": None if own is None or each.parameters is None else each.parameters / own, **each.about,
            }
            for each in systems
        },
        "groups": {each.group.name: _group_json(each) for each in found},
    }  # fmt: skip


def _group_json(found: Compared) -> dict[str, Any]:
    def estimate(each: Estimate) -> list[float | None]:
        return [_number(value) for value in each.to_json()]

    return {
        "inputs": found.inputs,
        "systems": {
            name: {
                **{label: estimate(intervals.mean(values)) for label, values in each.per_input().items()},
                **{label: cells for label, cells in _beside([each], found.systems[REFERENCE])},
                figures.FIRST: _number(_median(each.first_s)),
                figures.TOTAL: _number(_median(each.total_s)),
            }
            for name, each in found.systems.items()
        },
        "differences": {
            name: {
                each.figure: {
                    "student": _number(each.first), "baseline": _number(each.second),
                    "difference": estimate(each.difference), "better": _better(each),
                }
                for each in differences
            }
            for name, differences in found.differences.items()
        },
    }  # fmt: skip


def _better(each: Difference) -> bool | None:
    return None if math.isnan(each.difference.value) else each.better


def _median(seconds: Floats) -> float:
    found = seconds[~np.isnan(seconds)]
    return float(np.median(found)) if len(found) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
