"""The report: what a person reads in a minute first, the tables and samples behind it after."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.evaluation import plots, quality, samples, steering, verdict
from training.evaluation.comparison import Difference
from training.evaluation.document import (
    Cell,
    Document,
    Heading,
    Image,
    Mark,
    Paragraph,
    Sample,
    Samples,
    Table,
)
from training.evaluation.evaluation import Evaluation
from training.evaluation.plan import BEST_OF, LENGTHS, Scope
from training.evaluation.quality import MODEL, Quality
from training.evaluation.verdict import Verdict, show

ROWS = {
    quality.RELEVANCE: "relevance",
    quality.RELEVANCE_RATIO: "relevance ÷ the references'",
    quality.DISTINCT: "distinct-2 ÷ the references'",
    quality.DIVERSITY: "1 − self-BLEU ÷ the references'",
    quality.COPYING: "copy rate",
    quality.REPETITION: "repetition",
    quality.RECALL: "content words kept",
    quality.WITHIN_20: "length within ±20 %",
    quality.WITHIN_30: "length within ±30 %",
    quality.WHOLE: "ends a sentence",
    quality.OVERALL: "overall",
}


def write(
    out: Path,
    found: Evaluation,
    scope: Scope,
    source: str,
    other: Evaluation | None,
    paired: Sequence[Difference],
) -> None:
    """Plots, `report.md`, `report.html`, `report.json` and `answers.jsonl` into `out`."""
    document = Document(f"Evaluation of {found.name}")
    document.add(*_how(found, scope, source), *_verdicts(found))
    if other is not None:
        plots.comparison(paired, (found.name, other.name), out / "comparison.png")
        document.add(*_comparison(found, other, paired, out))
    document.add(*_pictures(found, out))
    for each in found.quality.values():
        document.add(*_expand(each))
    document.add(*_lengths(found), *_steering(found), *_samples(found))
    (out / "report.md").write_text(document.markdown(), encoding="utf-8")
    (out / "report.html").write_text(document.html(), encoding="utf-8")
    (out / "report.json").write_text(json.dumps(as_json(found, other, paired), indent=1), encoding="utf-8")
    lines = [json.dumps(each.to_json(), ensure_ascii=False) for each in found.answers]
    (out / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_json(found: Evaluation, other: Evaluation | None, paired: Sequence[Difference]) -> dict[str, Any]:
    """Everything that the report says, for programs."""
    verdicts = [*verdict.expand_verdicts(found), *verdict.steering_verdicts(found)]
    data: dict[str, Any] = {
        "bundle": found.bundle.name,
        "version": found.bundle.version,
        "verdicts": [
            {"bar": each.row, "where": each.column, "figure": each.figure, "reached": each.reached,
             "close": each.close} for each in verdicts
        ],
        "metrics": found.metrics(),
        "systems": {
            modality: {
                name: {key: _numbers(estimate.to_json()) for key, estimate in figures.items()}
                for name, figures in each.figures.items()
            }
            for modality, each in found.quality.items()
        },
        "calibration": steering.calibrate(found.cells),
    }  # fmt: skip
    if other is not None:
        data["against"] = other.name
        data["differences"] = [
            {"where": each.where, "figure": each.figure, "first": each.first, "second": each.second,
             "difference": _numbers(each.difference.to_json()), "better": each.better} for each in paired
        ]  # fmt: skip
    return data


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _how(found: Evaluation, scope: Scope, source: str) -> Iterator[Paragraph]:
    sampling = ", ".join(f"{name} {value}" for name, value in found.bundle.sampling.items())
    yield Paragraph(
        f"Inputs: {source}. Every answer is the only one (n = 1) at the default sampling ({sampling}), without "
        f"reranking, targets clamped into the support as the service does it; {scope.seeds} seeds, averaged within "
        f"an input. Intervals are 95 %, over inputs."
    )


def _verdicts(found: Evaluation) -> Iterator[Heading | Paragraph | Table]:
    expand, tasks = verdict.expand_verdicts(found), verdict.steering_verdicts(found)
    reached = sum(each.reached for each in (*expand, *tasks))
    yield Heading("Verdict")
    yield Paragraph(
        f"{reached} of {len(expand) + len(tasks)} bars are reached (✓ reached, ✗ missed; ≈ the interval holds both "
        f"outcomes). expand is asked for the highest supported relevance and the reference's length. Fluency is for a "
        f"reader to judge: evaluate --blind, then fluency."
    )
    yield _matrix("expand", expand)
    yield _matrix("every task", tasks)


def _matrix(corner: str, verdicts: Sequence[Verdict]) -> Table:
    columns = list(dict.fromkeys(each.column for each in verdicts))
    rows = list(dict.fromkeys(each.row for each in verdicts))
    cells = {(each.row, each.column): _marked(each) for each in verdicts}
    return Table(
        [corner, *columns], [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    )


def _marked(found: Verdict) -> Mark:
    mark = ("✓" if found.reached else "✗") + (" ≈" if found.close else "")
    return Mark(f"{mark} {found.figure}", found.reached)


def _comparison(
    found: Evaluation, other: Evaluation, paired: Sequence[Difference], out: Path
) -> Iterator[Heading | Paragraph | Table | Image]:
    better, worse = (sum(each.better is value for each in paired) for value in (True, False))
    yield Heading(f"Against {other.name}")
    yield Paragraph(
        f"The same requests with the same seeds, difference per input: {found.name} is better in {better} figures, "
        f"worse in {worse}, and in {len(paired) - better - worse} no difference is shown. Targets are those of "
        f"{found.name}'s support; each bundle clamps them into its own. One figure in twenty "
        f"would seem to differ by chance."
    )
    rows: list[list[Cell]] = []
    for each in paired:
        word = "no difference shown" if each.better is None else "better" if each.better else "worse"
        difference = Mark(f"{show(each.difference)} {word}", each.better)
        rows.append([each.where, each.figure, f"{each.first:.3f}", f"{each.second:.3f}", difference])
    yield Image(out / "comparison.png", "differences between the two bundles with intervals")
    yield Table(["", "figure", found.name, other.name, "difference"], rows, texts=2)


def _pictures(found: Evaluation, out: Path) -> Iterator[Heading | Image]:
    yield Heading("Target against achieved relevance")
    plots.steering(found.cells, out / "steering.png")
    yield Image(
        out / "steering.png", "achieved against target relevance, a panel per task, a line per length"
    )
    yield Heading("Length")
    plots.length(found.lengths, found.cells, out / "length.png")
    yield Image(out / "length.png", "length against target")
    yield Heading("expand beside its references and baselines")
    plots.expand(found.quality, out / "expand.png")
    yield Image(out / "expand.png", "figures of all systems as ratios to the references")
    yield Heading("Target against achieved relevance, by modality")
    plots.steering_detail(found.cells, out / "steering-detail.png")
    yield Image(out / "steering-detail.png", "a panel per task and length, a line per modality")


def _expand(found: Quality) -> Iterator[Heading | Paragraph | Table]:
    inputs = len(found.systems[MODEL].subjects)
    yield Heading(f"expand, {found.modality}: {inputs} inputs")
    names = list(found.systems)
    rows: list[list[Cell]] = [
        [label, *(show(found.figures[name][key]) for name in names)] for key, label in ROWS.items()
    ]
    yield Table(["", *names], rows)
    yield Paragraph(
        f"Distinct-2 and self-BLEU are taken at equal word count: each text and its reference are cut to the shorter "
        f"one's. Copy rate: longest run of input words ÷ output words. Repetition: share of 4-word spans that the "
        f"text has had before. Length: beside the reference's. References of other inputs have a relevance of "
        f"{found.random_relevance:.3f}. Overall is the geometric mean of relevance, distinct-2, 1 − self-BLEU, "
        f"1 − copy rate, 1 − repetition, content words kept (each ÷ the references', at most 1) and the share within "
        f"±20 %: who fails altogether on one gets nothing. Best of {BEST_OF} takes the most relevant of {BEST_OF} "
        f"answers, one seed."
    )


def _lengths(found: Evaluation) -> Iterator[Heading | Paragraph | Table]:
    yield Heading("expand at fixed lengths")
    rows: list[list[Cell]] = []
    for modality, each in found.lengths.items():
        for index, target in enumerate(LENGTHS):
            commanded = each.commanded[index]
            asked = str(target) if commanded == target else f"{target}, clamped to {commanded}"
            rows.append([
                modality, asked, show(each.mean_words(index), 1), show(each.share_within(index, 0.2)),
                show(each.share_within(index, 0.3)), f"{each.whole[:, :, index].mean():.3f}",
            ])  # fmt: skip
    yield Table(
        ["modality", "target", "words", "within ±20 %", "within ±30 %", "ends a sentence"], rows, texts=2
    )
    yield Paragraph("Relevance was left to the service's default, the 90th percentile of the cell.")


def _steering(found: Evaluation) -> Iterator[Heading | Paragraph | Table]:
    yield Heading("Steering, by task and length")
    rows: list[list[Cell]] = []
    for cell in found.cells:
        curve = ", ".join(
            f"{target:.2f} → {value:.2f}" for target, value in zip(cell.targets, cell.means, strict=True)
        )
        rows.append([
            cell.task, f"{cell.length}", curve,
            Mark(f"{cell.rising_steps} of {cell.steps}", cell.rising_steps == cell.steps),
            Mark(show(cell.spearman, 2), cell.spearman.value >= verdict.SPEARMAN_BAR),
            Mark(show(cell.error), cell.error.value <= verdict.ERROR_BAR),
            f"{cell.bias:.3f}", f"{cell.within_20.mean():.2f}", f"{len(cell.relevance)}",
        ])  # fmt: skip
    header = ["task", "words", "target → mean achieved", "rising steps", "Spearman", "|achieved − target|",
              "|mean − target|", "length ±20 %", "inputs"]  # fmt: skip
    yield Table(header, rows, texts=3)
    yield Paragraph(
        "Five targets from the 10th to the 90th percentile of the training rows of that task and length, all "
        "modalities together. |achieved − target| is of single answers; |mean achieved − target| is the part of it "
        "that a shifted target could mend."
    )
    if found.validation_loss is not None:
        yield Paragraph(f"Validation loss: {found.validation_loss}.")


def _samples(found: Evaluation) -> Iterator[Heading | Samples]:
    yield Heading("100 answers, the worst first")
    yield Samples([
        Sample(
            each.answer.case.subject.input, each.asked, each.answer.text,
            f"{each.answer.relevance:.2f}, {each.answer.words} words", each.mark,
        )
        for each in samples.choose(found.answers)
    ])  # fmt: skip
