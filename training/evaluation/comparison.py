"""Two bundles on the same requests with the same seeds: differences, input by input, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.evaluation import intervals, quality
from training.evaluation.evaluation import Evaluation
from training.evaluation.intervals import Estimate, Indices, Statistic
from training.evaluation.quality import MODEL, REFERENCE, System
from training.evaluation.steering import RESAMPLES, SteeringCell

LABELS = {
    quality.RELEVANCE: "relevance", quality.RECALL: "content words kept", quality.COPYING: "copy rate",
    quality.REPETITION: "repetition", quality.WITHIN_20: "within ±20 % of the reference's length",
    quality.WHOLE: "ends a sentence",
}  # fmt: skip
LESS_IS_BETTER = (quality.COPYING, quality.REPETITION)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both bundles, and first − second."""

    where: str
    figure: str
    first: float
    second: float
    difference: Estimate
    less_is_better: bool = False

    @property
    def better(self) -> bool | None:
        """Whether the first is; None where the interval holds zero."""
        if not self.difference.differs:
            return None
        return (self.difference.value < 0) == self.less_is_better


def compare(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Everything that the bars are about."""
    return [*_expand(first, second), *_lengths(first, second), *_steering(first, second)]


def _expand(first: Evaluation, second: Evaluation) -> Iterator[Difference]:
    for modality, found in first.quality.items():
        where, reference = f"expand, {modality}", found.systems[REFERENCE]
        own, other = found.systems[MODEL], second.quality[modality].systems[MODEL]
        if own.subjects != other.subjects:
            raise ValueError("paired figures need the same inputs")
        for name, label in LABELS.items():
            a, b = own.per_input[name], other.per_input[name]
            less = name in LESS_IS_BETTER
            yield Difference(
                where, label, float(np.nanmean(a)), float(np.nanmean(b)), intervals.mean(a - b), less
            )
            if name == quality.RELEVANCE:
                yield _ratio(where, a, b, reference.per_input[name])
        for label, of, to in (
            ("distinct-2, × the references'", own.distinct_ratio, other.distinct_ratio),
            ("1 − self-BLEU, × the references'", own.diversity_ratio, other.diversity_ratio),
        ):
            yield _of_set(where, label, of, to, own)


def _ratio(where: str, a: intervals.Floats, b: intervals.Floats, base: intervals.Floats) -> Difference:
    return Difference(
        where, "relevance, × the references'", float(a.mean() / base.mean()), float(b.mean() / base.mean()),
        intervals.ratio(a - b, base),
    )  # fmt: skip


def _of_set(where: str, label: str, of: Statistic, to: Statistic, own: System) -> Difference:
    everything = np.arange(len(own.subjects))
    difference = intervals.of_set(lambda chosen: of(chosen) - to(chosen), len(everything))
    return Difference(where, label, of(everything), to(everything), difference)


def _lengths(first: Evaluation, second: Evaluation) -> Iterator[Difference]:
    for modality, found in first.lengths.items():
        a, b = found.within_per_input(0.2), second.lengths[modality].within_per_input(0.2)
        label = "within ±20 % of 12, 25, 50, 80, 120 words"
        yield Difference(
            f"expand, {modality}", label, float(a.mean()), float(b.mean()), intervals.mean(a - b)
        )


def _steering(first: Evaluation, second: Evaluation) -> Iterator[Difference]:
    pairs: dict[str, list[tuple[SteeringCell, SteeringCell]]] = {}
    for cell, other in zip(first.cells, second.cells, strict=True):
        pairs.setdefault(cell.task, []).append((cell, other))
    for task, cells in pairs.items():
        errors = intervals.mean_of([a.errors - b.errors for a, b in cells])
        yield Difference(
            task, "mean |achieved − target|", float(np.mean([a.error.value for a, _ in cells])),
            float(np.mean([b.error.value for _, b in cells])), errors, less_is_better=True,
        )  # fmt: skip
        ranks = intervals.statistic(
            [(_spearman_difference(a, b), len(a.relevance)) for a, b in cells], RESAMPLES
        )
        yield Difference(
            task, "Spearman of target and achieved, mean of the lengths",
            float(np.mean([a.spearman.value for a, _ in cells])),
            float(np.mean([b.spearman.value for _, b in cells])), ranks,
        )  # fmt: skip
        within = intervals.mean_of([a.within_20 - b.within_20 for a, b in cells])
        yield Difference(
            task, "within ±20 % of the length", float(np.mean([a.within_20.mean() for a, _ in cells])),
            float(np.mean([b.within_20.mean() for _, b in cells])), within,
        )  # fmt: skip


def _spearman_difference(first: SteeringCell, second: SteeringCell) -> Statistic:
    def of(chosen: Indices) -> float:
        return first.spearman_of(chosen) - second.spearman_of(chosen)

    return of
