"""Bundle -> report: `python -m training evaluate BUNDLE --episodes DIR [--write]`.

Samples the bundle through the engine that serves it, always n = 1 with default sampling and no reranking, on
validation inputs, and compares what was asked for with what came: relevance and length per task and modality, next
to the references, the copy rate, diversity and repetition. Writes `report.md`, `report.json` and `steering.png`;
`--write` puts the calibration and the figures into the bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from export.bundle import update_manifest
from promptdial.bundle import Bundle, load_bundle
from promptdial.command import Command, word_count
from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.relevance import RelevanceScorer, load_scorer
from promptdial.support import Cell
from training import measures
from training.episodes import Episode, read_episodes
from training.errors import TrainingError
from training.train import loss_of

log = logging.getLogger(__name__)

LENGTHS = (12, 25, 50, 80, 120)
STEPS = 5  # relevance targets per cell, from the lowest to the highest supported
DISTINCT_BUDGET = 2000  # word pairs
ROWS = 16  # decoded at a time


@dataclass(frozen=True)
class Case:
    """One command over one validation input, the reference if the input has one, and why it is asked."""

    purpose: str  # "highest", "lowest", "sweep" or "length"
    command: Command
    input: str
    reference: str = ""


@dataclass(frozen=True)
class Answer:
    """What the model gave for a case, measured."""

    case: Case
    text: str
    relevance: float
    words: int


def run(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    bundle = load_bundle(args.bundle)
    held_out = read_episodes(args.episodes, "validation")
    cases = list(plan(bundle, held_out, args.inputs))
    log.info("%d generations", len(cases))
    scorer = load_scorer(args.bundle, args.threads)
    answers = answer(bundle, cases, scorer, args.threads, args.seed)
    figures = {
        **summary(answers, scorer),
        "validation_loss": loss_of(args.bundle, held_out),
    }
    calibration = calibrate(answers)
    out = args.out or Path("runs/evaluation") / bundle.name
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "bundle": bundle.name,
        "version": bundle.version,
        "metrics": figures,
        "calibration": calibration,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (out / "report.md").write_text(render(bundle, figures, calibration, answers), encoding="utf-8")
    plot(calibration, answers, out / "steering.png")
    if args.write:
        update_manifest(args.bundle, metrics=figures, calibration=calibration)
    log.info("wrote %s", out / "report.md")


def plan(bundle: Bundle, held_out: Sequence[Episode], inputs: int) -> Iterable[Case]:
    """What is asked: per task and modality five relevances at the default length; for `expand` ends and lengths."""
    groups: dict[tuple[str, str], list[Episode]] = defaultdict(list)
    lengths = map(len, bundle.tokenizer().encode_batch([episode.input for episode in held_out]))
    for episode, tokens in zip(held_out, lengths, strict=True):
        fits = tokens <= bundle.limits.max_input_tokens
        if fits and episode.method != "mismatched" and episode.task in bundle.tasks:
            groups[episode.task, episode.modality].append(episode)
    for (task, modality), rows in sorted(groups.items()):
        chosen = _spread({row.input: row for row in rows}, inputs)
        length = bundle.support.default_length(task) or 1
        cell = _cell(bundle, task, length)
        for target in np.linspace(cell.p05, cell.p95, STEPS):
            yield from (
                Case("sweep", Command(task, modality, float(target), length), row.input) for row in chosen
            )
    for modality in ("image", "video"):
        yield from _ends_and_lengths(bundle, groups["expand", modality], modality, inputs)


def _ends_and_lengths(bundle: Bundle, rows: Sequence[Episode], modality: str, inputs: int) -> Iterable[Case]:
    """`expand` at the highest and lowest supported target and the reference's length; and at fixed lengths."""
    references = _spread({row.input: row for row in rows if row.method in ("pair", "reused")}, inputs)
    if not references:
        raise TrainingError(f"the validation episodes hold no reference for expand, {modality}")
    for row in references:
        cell = _cell(bundle, "expand", row.words)
        for purpose, target in (("highest", cell.p95), ("lowest", cell.p05)):
            yield Case(purpose, Command("expand", modality, target, row.words), row.input, row.output)
    for length in LENGTHS:
        target = _cell(bundle, "expand", length).p90
        yield from (
            Case("length", Command("expand", modality, target, length), row.input) for row in references
        )


def _cell(bundle: Bundle, task: str, length: int) -> Cell:
    cell = bundle.support.cell(task, length)
    if cell is None:
        raise TrainingError(f"{bundle.path}/bundle.json holds no support for task {task!r}: export it again")
    return cell


def _spread(rows: dict[str, Episode], count: int) -> list[Episode]:
    """Every k-th row in the order of their inputs."""
    ordered = [rows[key] for key in sorted(rows)]
    return ordered[:: max(1, len(ordered) // count)][:count]


def answer(
    bundle: Bundle, cases: Sequence[Case], scorer: RelevanceScorer, threads: int, seed: int
) -> list[Answer]:
    """Generate and score every case, in order, with progress in the log."""
    tokenizer, sampling = bundle.tokenizer(), Sampling(**bundle.sampling)
    engine = Engine.from_bundle(bundle, threads=threads, max_running=ROWS, queue_limit=len(cases))
    engine.start()
    try:
        generations = [
            engine.submit(
                GenerationRequest(
                    prompt=tuple(tokenizer.prompt(case.command, case.input)),
                    max_tokens=bundle.limits.max_tokens,
                    sampling=sampling,
                    seed=seed + number,
                )
            )
            for number, case in enumerate(cases)
        ]
        texts = []
        for number, generation in enumerate(generations, start=1):
            texts.append(tokenizer.decode(generation.result().candidates[0][0]))
            if number % 500 == 0:
                log.info("%d of %d generated", number, len(cases))
    finally:
        engine.close()
    relevance = scorer.score([case.input for case in cases], texts)
    return [
        Answer(case, text, value, word_count(text))
        for case, text, value in zip(cases, texts, relevance, strict=True)
    ]


def calibrate(answers: Sequence[Answer]) -> dict[str, list[dict[str, float]]]:
    """Per task: mean, 10th and 90th percentile of what was achieved at each relevance target, with counts."""
    groups: dict[tuple[str, float], list[float]] = defaultdict(list)
    for found in answers:
        if found.case.purpose == "sweep":
            groups[found.case.command.task, _target(found)].append(found.relevance)
    calibration: dict[str, list[dict[str, float]]] = defaultdict(list)
    for (task, target), values in sorted(groups.items()):
        calibration[task].append(
            {
                "target": round(target, 3),
                "achieved": round(float(np.mean(values)), 3),
                "p10": round(float(np.percentile(values, 10)), 3),
                "p90": round(float(np.percentile(values, 90)), 3),
                "count": len(values),
            }
        )
    return dict(calibration)


def _target(found: Answer) -> float:
    assert found.case.command.relevance is not None
    return found.case.command.relevance


def summary(answers: Sequence[Answer], scorer: RelevanceScorer) -> dict[str, Any]:
    """The figures of `expand`, image and video apart: steering against references, length, copying, diversity."""
    return {
        f"expand_{modality}": _modality_summary(
            [a for a in answers if a.case.command.task == "expand" and a.case.command.modality == modality],
            scorer,
        )
        for modality in ("image", "video")
    }


def _modality_summary(answers: Sequence[Answer], scorer: RelevanceScorer) -> dict[str, Any]:
    by_purpose: dict[str, list[Answer]] = defaultdict(list)
    for found in answers:
        by_purpose[found.case.purpose].append(found)
    highest, lowest = by_purpose["highest"], by_purpose["lowest"]
    references = [found.case.reference for found in highest]
    inputs = [found.case.input for found in highest]
    reference_relevance = float(np.mean(scorer.score(inputs, references)))
    random_relevance = float(np.mean(scorer.score(inputs, [*references[1:], references[0]])))
    achieved = float(np.mean([found.relevance for found in highest]))
    texts = [found.text for found in highest]
    budget = min(DISTINCT_BUDGET, measures.pair_count(texts), measures.pair_count(references))
    return {
        "inputs": len(highest),
        "relevance_reference": round(reference_relevance, 3),
        "relevance_random": round(random_relevance, 3),
        "relevance_highest": round(achieved, 3),
        "relevance_lowest": round(float(np.mean([found.relevance for found in lowest])), 3),
        "relevance_ratio": round(achieved / reference_relevance, 3),
        "copy_rate": _mean(measures.copy_rate(a.case.input, a.text) for a in highest),
        "copy_rate_reference": _mean(
            measures.copy_rate(i, r) for i, r in zip(inputs, references, strict=True)
        ),
        "repetition": _mean(map(measures.repetition, texts)),
        "repetition_reference": _mean(map(measures.repetition, references)),
        "distinct_2": round(measures.distinct_2(texts, budget), 3),
        "distinct_2_reference": round(measures.distinct_2(references, budget), 3),
        "length": _length_summary(by_purpose["length"]),
        "length_within_30_percent": _within(by_purpose["length"], 0.3),
        "length_within_20_percent": _within(by_purpose["length"], 0.2),
        "reference_length_within_30_percent": _within(highest, 0.3),
    }


def _length_summary(answers: Sequence[Answer]) -> list[dict[str, float]]:
    groups: dict[int, list[Answer]] = defaultdict(list)
    for found in answers:
        groups[found.case.command.length or 0].append(found)
    return [
        {
            "target": target,
            "mean": _mean(found.words for found in group),
            "within_30_percent": _within(group, 0.3),
            "within_20_percent": _within(group, 0.2),
            "relevance": _mean(found.relevance for found in group),
        }
        for target, group in sorted(groups.items())
    ]


def _within(answers: Sequence[Answer], share: float) -> float:
    return _mean(
        abs(a.words - (a.case.command.length or 0)) <= share * (a.case.command.length or 0) for a in answers
    )


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 3)


def render(
    bundle: Bundle,
    figures: dict[str, Any],
    calibration: dict[str, list[dict[str, float]]],
    answers: Sequence[Answer],
) -> str:
    """The report as Markdown."""
    lines = [f"# Evaluation of {bundle.name}@{bundle.version}", ""]
    lines += [f"Validation inputs, n = 1, sampling {bundle.sampling}, no reranking.", ""]
    lines += [
        "![target against achieved](steering.png)",
        "",
        "## expand",
        "",
        "| | image | video |",
        "|---|---:|---:|",
    ]
    image, video = figures["expand_image"], figures["expand_video"]
    lines += [f"| {name} | {image[name]} | {video[name]} |" for name in image if name != "length"]
    lines += ["", f"Validation loss: {figures['validation_loss']}.", "", "## Length", ""]
    lines += [
        "| modality | target | mean | within 20 % | within 30 % | relevance |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for modality, found in (("image", image), ("video", video)):
        for row in found["length"]:
            cells = (
                row["target"],
                row["mean"],
                row["within_20_percent"],
                row["within_30_percent"],
                row["relevance"],
            )
            lines.append(f"| {modality} | " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "## Target against achieved relevance",
        "",
        "| task | " + "target -> achieved (10 %, 90 %) | " * STEPS,
    ]
    lines.append("|---|" + "---|" * STEPS)
    for task, rows in calibration.items():
        cells_ = [f"{r['target']} -> **{r['achieved']}** ({r['p10']}, {r['p90']})" for r in rows]
        lines.append(f"| {task} | " + " | ".join(cells_) + " |")
    return "\n".join([*lines, "", "## Samples", "", *_samples(answers)]) + "\n"


def _samples(answers: Sequence[Answer]) -> Iterable[str]:
    """Forty answers spread over all cases, then the ten least relevant ones at the highest target."""
    spread = answers[:: max(1, len(answers) // 40)]
    worst = sorted((a for a in answers if a.case.purpose == "highest"), key=lambda a: a.relevance)[:10]
    for title, group in (
        ("Spread over all cases", spread),
        ("The least relevant at the highest target", worst),
    ):
        yield from (f"### {title}", "")
        for found in group:
            command = found.case.command
            asked = (
                f"{command.task}, {command.modality}, relevance {_target(found):.2f}, {command.length} words"
            )
            yield f"- **{found.case.input}** ({asked}): {found.text} ({found.relevance:.2f}, {found.words} words)"
        yield ""


def plot(calibration: dict[str, list[dict[str, float]]], answers: Sequence[Answer], path: Path) -> None:
    """Two panels: achieved against target relevance by task, and words against target words."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for task, rows in calibration.items():
        left.plot([r["target"] for r in rows], [r["achieved"] for r in rows], marker="o", label=task)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="target relevance", ylabel="achieved relevance, mean", xlim=(0, 1), ylim=(0, 1))
    left.legend(frameon=False)
    lengths = [found for found in answers if found.case.purpose == "length"]
    groups = [[a.words for a in lengths if a.case.command.length == target] for target in LENGTHS]
    right.boxplot(groups, positions=LENGTHS, widths=6, manage_ticks=False, showfliers=False)
    right.plot([0, 140], [0, 140], color="grey", linewidth=0.8, linestyle=":")
    right.set(
        xlabel="target length, words", ylabel="words of the output (expand)", xlim=(0, 140), ylim=(0, 160)
    )
    figure.savefig(path, dpi=110)
