"""The plots of the report. Colours are those of Okabe and Ito, which colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from training.evaluation import quality, verdict
from training.evaluation.comparison import Difference
from training.evaluation.intervals import Estimate
from training.evaluation.lengths import Lengths
from training.evaluation.plan import LENGTHS
from training.evaluation.quality import REFERENCE, Quality
from training.evaluation.steering import SteeringCell, by_task

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#888888"
COLOURS, MARKERS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY), "osD^vP"
DPI = 110


def steering(cells: Sequence[SteeringCell], path: Path) -> None:
    """A panel per task: achieved against target relevance, a line per length, all modalities together."""
    tasks = by_task(cells)
    figure, axes = _grid(len(tasks), 3, 3.4)
    for axis, task in zip(axes, tasks, strict=False):
        for number, cell in enumerate(task.cells):
            _line(axis, cell.targets, cell.curve(), number, f"{cell.length} words")
        _diagonal(axis)
        axis.set_title(task.task, loc="left", fontweight="bold")
        axis.legend(frameon=False, loc="upper left", fontsize=8)
    _label(figure, "target relevance", "achieved relevance, mean and 95 % interval")
    figure.savefig(path, dpi=DPI)


def steering_detail(cells: Sequence[SteeringCell], path: Path) -> None:
    """A panel per task (row) and length (column), a line per modality."""
    tasks = by_task(cells)
    columns = max(len(task.cells) for task in tasks)
    figure = Figure(figsize=(2.7 * columns + 0.6, 2.5 * len(tasks) + 0.5), layout="constrained")
    axes = figure.subplots(len(tasks), columns, squeeze=False, sharex=True, sharey=True)
    modalities = sorted({modality for cell in cells for modality in cell.modalities})
    for row, task in zip(axes, tasks, strict=True):
        for axis in row[len(task.cells) :]:
            axis.set_visible(False)
        for axis, cell in zip(row, task.cells, strict=False):
            for number, modality in enumerate(modalities):
                if modality in cell.modalities:
                    _line(axis, cell.targets, cell.curve(modality), number, modality)
            _diagonal(axis)
            axis.set_title(f"{task.task}, {cell.length} words", loc="left", fontsize=9)
    lines = [
        axes[0, 0].errorbar([], [], **_style(number), label=name) for number, name in enumerate(modalities)
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(modalities), frameon=False)
    _label(figure, "target relevance", "achieved relevance, mean and 95 % interval")
    figure.savefig(path, dpi=DPI)


def length(found: dict[str, Lengths], cells: Sequence[SteeringCell], path: Path) -> None:
    """Words of `expand` against the target, the share within ±20 %, and words ÷ target of all tasks."""
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    words, share, tasks = figure.subplots(1, 3)
    places = np.arange(len(LENGTHS))
    for number, (modality, each) in enumerate(found.items()):
        shift = (number - (len(found) - 1) / 2) * 0.12
        ratios = [_scaled(each.mean_words(i), target) for i, target in enumerate(LENGTHS)]
        _line(words, places + shift, ratios, number, modality)
        _line(
            share, places + shift, [each.share_within(i, 0.2) for i in range(len(LENGTHS))], number, modality
        )
    _band(words)
    share.axhline(verdict.LENGTH_BAR, color=GREY, linestyle="--", linewidth=1)
    for axis in (words, share):
        axis.set_xticks(places, [str(target) for target in LENGTHS])
        axis.set_xlabel("target, words")
        axis.legend(frameon=False, loc="lower right")
    words.set_title("expand: mean words ÷ target (band: ±20 %)", loc="left", fontsize=10)
    share.set_title("expand: share within ±20 % (line: the bar)", loc="left", fontsize=10)
    share.set_ylim(0, 1.02)
    _task_lengths(tasks, cells)
    figure.savefig(path, dpi=DPI)


def _task_lengths(axis: Axes, cells: Sequence[SteeringCell]) -> None:
    for number, task in enumerate(by_task(cells)):
        ratios = [_scaled(cell.mean_words(), cell.length) for cell in task.cells]
        _line(axis, [cell.length * 1.02**number for cell in task.cells], ratios, number, task.task)
    _band(axis)
    axis.set_xscale("log")
    ticks = sorted({cell.length for cell in cells})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("target, words")
    axis.set_title("all tasks: mean words ÷ target", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=2)


RATIOS = {
    quality.RELEVANCE: "relevance",
    quality.DISTINCT: "distinct-2",
    quality.DIVERSITY: "1 − self-BLEU",
    quality.RECALL: "content words kept",
    quality.COPYING: "copy rate",
    quality.OVERALL: "overall",
}


def expand(found: dict[str, Quality], path: Path) -> None:
    """A panel per modality: figures of every system as ratios to the references, and the bars."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True, sharex=True)[0]
    for axis, (modality, each) in zip(axes, found.items(), strict=True):
        _ratios(axis, each)
        axis.set_title(f"expand, {modality}", loc="left", fontweight="bold")
    axes[0].set_yticks(range(len(RATIOS)), list(RATIOS.values()))
    axes[0].invert_yaxis()
    axes[0].set_xlim(-0.04, 2.2)
    figure.supxlabel(
        "÷ the references' (black: the bar, arrow to the good side; right edge: beyond)", fontsize=10
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=DPI)


def _ratios(axis: Axes, found: Quality) -> None:
    systems = [name for name in found.systems if name != REFERENCE]
    for row, name in enumerate(RATIOS):
        base = found.figures[REFERENCE][name].value
        for number, system in enumerate(systems):
            estimate = _scaled(found.figures[system][name], base)
            _dot(axis, estimate, row + (number - 2) * 0.13, number, system if row == 0 else None)
        bars = {
            quality.RELEVANCE: verdict.RELEVANCE_BARS[0],
            quality.RECALL: (base - verdict.RECALL_SLACK) / base if base else 0.0,
            quality.COPYING: verdict.EXCESS,
            quality.OVERALL: None,
        }
        if (bar := bars.get(name, verdict.DIVERSITY_BAR)) is not None:
            _bar(axis, row, bar, -1 if name == quality.COPYING else 1)
    axis.axvline(1, color=GREY, linewidth=0.8)


def _bar(axis: Axes, row: int, bar: float, sign: int) -> None:
    axis.plot([bar, bar], [row - 0.38, row + 0.38], color="black", linewidth=1.6)
    axis.annotate("", (bar + sign * 0.09, row + 0.38), (bar, row + 0.38), arrowprops={"arrowstyle": "->"})


def _dot(axis: Axes, found: Estimate, place: float, number: int, label: str | None) -> None:
    value = min(found.value, 2.18)
    spread = (
        None if np.isnan(found.low) or found.value > value else [[value - found.low], [found.high - value]]
    )
    style = {**_style(number), "linestyle": "none", "markersize": 7 if number == 0 else 5}
    axis.errorbar([value], [place], xerr=spread, label=label, **style)


def comparison(found: Sequence[Difference], names: tuple[str, str], path: Path) -> None:
    """First − second of every figure, turned so that right is better for the first."""
    figure = Figure(figsize=(11, 0.27 * len(found) + 1.2), layout="constrained")
    axis = figure.subplots()
    for place, each in enumerate(found):
        sign = -1 if each.less_is_better else 1
        ends = sorted((sign * each.difference.low, sign * each.difference.high))
        colour = GREY if each.better is None else BLUE if each.better else RED
        axis.plot(ends, [place, place], color=colour, linewidth=2)
        axis.plot([sign * each.difference.value], [place], marker="o", color=colour)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(found)), [f"{each.where}: {each.figure}" for each in found], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"← {names[1]} better · {names[0]} better →   (grey: no difference shown)")
    figure.savefig(path, dpi=DPI)


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4,
        "linewidth": 1.3, "capsize": 2, "elinewidth": 1,
    }  # fmt: skip


def _line(axis: Axes, places: ArrayLike, found: Sequence[Estimate], number: int, label: str) -> None:
    values = np.array([each.value for each in found])
    spread = np.array([[each.value - each.low, each.high - each.value] for each in found]).T
    axis.errorbar(places, values, yerr=np.maximum(spread, 0), label=label, **_style(number))


def _diagonal(axis: Axes) -> None:
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xlim=(0, 1), ylim=(0, 1))


def _band(axis: Axes) -> None:
    axis.axhspan(0.8, 1.2, color=GREY, alpha=0.15, linewidth=0)
    axis.axhline(1, color=GREY, linewidth=0.8)


def _scaled(found: Estimate, base: float) -> Estimate:
    if not base:
        return Estimate(float("nan"), float("nan"), float("nan"))
    return Estimate(found.value / base, found.low / base, found.high / base)


def _grid(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4 * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _label(figure: Figure, across: str, up: str) -> None:
    figure.supxlabel(across, fontsize=10)
    figure.supylabel(up, fontsize=10)
