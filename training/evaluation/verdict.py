"""The bars of a default model: the figure, its margin to the bar, reached or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from training.evaluation import intervals, quality
from training.evaluation.evaluation import Evaluation
from training.evaluation.intervals import Estimate
from training.evaluation.lengths import Lengths
from training.evaluation.quality import COPY, MODEL, OVERALL, REFERENCE, Quality
from training.evaluation.steering import TaskSteering, by_task

RELEVANCE_BARS = (0.95, 1.0)
DIVERSITY_BAR = 0.94
EXCESS = 1.1  # copying and repetition, times the reference's
RECALL_SLACK = WHOLE_SLACK = 0.05
LENGTH_BAR = 0.9
SPEARMAN_BAR = 0.6
ERROR_BAR = 0.08


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar in one place: a row and a column of a table.

    margin: how far past the bar, with its interval; negative where it is missed.
    """

    row: str
    column: str
    figure: str
    margin: Estimate

    @property
    def reached(self) -> bool:
        """Whether the figure itself is past the bar."""
        return self.margin.value >= 0

    @property
    def close(self) -> bool:
        """Whether the interval holds both outcomes."""
        return not math.isnan(self.margin.low) and self.margin.low < 0 <= self.margin.high


def expand_verdicts(evaluation: Evaluation) -> list[Verdict]:
    """The bars of `expand`; columns are modalities."""
    return [
        verdict
        for modality, found in evaluation.quality.items()
        for verdict in (*_against_references(found), *_lengths(evaluation.lengths[modality], found))
    ]


def steering_verdicts(evaluation: Evaluation) -> list[Verdict]:
    """The bars that every task has; rows are tasks."""
    return [verdict for task in by_task(evaluation.cells) for verdict in _steering(task)]


def _against_references(found: Quality) -> Iterator[Verdict]:
    figures, modality = found.figures[MODEL], found.modality
    for bar in RELEVANCE_BARS:
        ratio = figures[quality.RELEVANCE_RATIO]
        yield Verdict(f"relevance ≥ {bar:.2f} × the references'", modality, show(ratio), _over(ratio, bar))
    for name, label in ((quality.DISTINCT, "distinct-2"), (quality.DIVERSITY, "1 − self-BLEU")):
        yield Verdict(
            f"{label} ≥ {DIVERSITY_BAR} × the references'", modality, show(figures[name]),
            _over(figures[name], DIVERSITY_BAR),
        )  # fmt: skip
    yield _beside(found, quality.COPYING, "copy rate ≤ the references' + 10 %", EXCESS, 0.0, -1)
    yield _beside(found, quality.REPETITION, "repetition ≤ the references' + 10 %", EXCESS, 0.0, -1)
    yield _beside(
        found, quality.RECALL, "content words kept ≥ the references' − 5 points", 1.0, -RECALL_SLACK, 1
    )
    model, copy = figures[OVERALL].value, found.figures[COPY][OVERALL].value
    margin = Estimate(model - copy or -1.0, math.nan, math.nan)  # a draw is no win
    yield Verdict("copy-input loses overall", modality, f"{model:.2f} against {copy:.2f}", margin)


def _beside(found: Quality, name: str, label: str, factor: float, slack: float, sign: int) -> Verdict:
    """A figure against the reference's, input by input; `sign` is 1 where more is better."""
    own = found.systems[MODEL].per_input[name]
    other = found.systems[REFERENCE].per_input[name]
    limit = factor * found.figures[REFERENCE][name].value + slack
    margin = intervals.mean(sign * (own - factor * other - slack))
    return Verdict(label, found.modality, f"{show(found.figures[MODEL][name])}, bar {limit:.3f}", margin)


def _lengths(found: Lengths, against: Quality) -> Iterator[Verdict]:
    within = intervals.mean(found.within_per_input(0.2))
    yield Verdict(
        f"length within ±20 % for ≥ {LENGTH_BAR:.0%}", found.modality, show(within), _over(within, LENGTH_BAR)
    )
    whole = intervals.mean(found.whole_per_input)
    limit = against.figures[REFERENCE][quality.WHOLE].value - WHOLE_SLACK
    yield Verdict(
        "not cut: ends a sentence ≥ the references' − 5 points", found.modality,
        f"{show(whole)}, bar {limit:.3f}", _over(whole, limit),
    )  # fmt: skip


def _steering(task: TaskSteering) -> Iterator[Verdict]:
    rising, count = task.rising_cells, len(task.cells)
    yield Verdict(
        task.task, "mean rises at every step, in all lengths", f"{rising} of {count}",
        Estimate(rising - count, math.nan, math.nan),
    )  # fmt: skip
    lowest = task.lowest_spearman
    yield Verdict(
        task.task, f"Spearman ≥ {SPEARMAN_BAR}, lowest length",
        f"{show(lowest.spearman)} at {lowest.length} words", _over(lowest.spearman, SPEARMAN_BAR),
    )  # fmt: skip
    error = task.error
    yield Verdict(
        task.task, f"mean |achieved − target| ≤ {ERROR_BAR}", show(error),
        Estimate(ERROR_BAR - error.value, ERROR_BAR - error.high, ERROR_BAR - error.low),
    )  # fmt: skip


def _over(found: Estimate, bar: float) -> Estimate:
    return Estimate(found.value - bar, found.low - bar, found.high - bar)


def show(found: Estimate, digits: int = 3) -> str:
    """`0.712 (0.690–0.731)`."""
    if math.isnan(found.low):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})"
