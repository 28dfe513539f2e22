"""Does the model obey? Target against achieved, per task, modality and length, and the calibration that comes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.evaluation import intervals
from training.evaluation.answers import Answer
from training.evaluation.intervals import Estimate, Floats, Indices

MIN_ROWS = 30  # of a calibration row
RESAMPLES = 500  # of rank correlations


@dataclass(frozen=True)
class SteeringCell:
    """One task at one length: the same inputs and seeds at every relevance target."""

    task: str
    length: int
    targets: tuple[float, ...]
    modalities: tuple[str, ...]  # of each input
    relevance: Floats  # (inputs, seeds, targets)
    words: Floats  # the same

    @cached_property
    def means(self) -> Floats:
        """Mean achieved relevance at each target."""
        found: Floats = self.relevance.mean(axis=(0, 1))
        return found

    @property
    def rising_steps(self) -> int:
        """How often the mean rises from one target to the next."""
        return int((np.diff(self.means) > 0).sum())

    @property
    def steps(self) -> int:
        """Steps between targets."""
        return len(self.targets) - 1

    @cached_property
    def spearman(self) -> Estimate:
        """Rank correlation of target and achieved over single answers."""
        return intervals.statistic([(self.spearman_of, len(self.relevance))], RESAMPLES)

    def spearman_of(self, chosen: Indices) -> float:
        """The same over some of the inputs."""
        found = self.relevance[chosen]
        return intervals.spearman(np.broadcast_to(np.array(self.targets), found.shape).ravel(), found.ravel())

    @property
    def errors(self) -> Floats:
        """|achieved - target| of single answers, averaged per input."""
        found: Floats = np.abs(self.relevance - np.array(self.targets)).mean(axis=(1, 2))
        return found

    @cached_property
    def error(self) -> Estimate:
        """Mean |achieved - target| of single answers."""
        return intervals.mean(self.errors)

    @property
    def bias(self) -> float:
        """|mean achieved - target|, averaged over targets: what calibration could take away."""
        return float(np.abs(self.means - np.array(self.targets)).mean())

    @property
    def within_20(self) -> Floats:
        """Share of answers within ±20 % of the length, per input."""
        found: Floats = (np.abs(self.words - self.length) <= 0.2 * self.length).mean(axis=(1, 2))
        return found

    def curve(self, modality: str | None = None) -> list[Estimate]:
        """Mean achieved relevance at each target, over one modality or all."""
        rows = self.relevance[self._of(modality)].mean(axis=1)  # (inputs, targets)
        return [intervals.mean(column) for column in rows.T]

    def mean_words(self, modality: str | None = None) -> Estimate:
        """Mean length over all targets, over one modality or all."""
        return intervals.mean(self.words[self._of(modality)].mean(axis=(1, 2)))

    def _of(self, modality: str | None) -> Indices:
        found = [index for index, each in enumerate(self.modalities) if modality in (None, each)]
        return np.array(found, np.intp)


def cells(answers: Sequence[Answer]) -> list[SteeringCell]:
    """The steering cells of all `sweep` answers, by task and length."""
    groups: dict[tuple[str, int], list[Answer]] = defaultdict(list)
    for found in answers:
        if found.case.purpose == "sweep":
            groups[found.case.subject.task, found.case.length or 0].append(found)
    return [_cell(task, length, group) for (task, length), group in sorted(groups.items())]


def _cell(task: str, length: int, answers: Sequence[Answer]) -> SteeringCell:
    targets = sorted({(found.case.step, found.case.relevance or 0.0) for found in answers})
    subjects = list(dict.fromkeys(found.case.subject for found in answers))
    seeds = 1 + max(found.case.seed for found in answers)
    row = {subject: index for index, subject in enumerate(subjects)}
    relevance = np.full((len(subjects), seeds, len(targets)), np.nan)
    words = relevance.copy()
    for found in answers:
        place = row[found.case.subject], found.case.seed, found.case.step
        relevance[place], words[place] = found.relevance, found.words
    return SteeringCell(
        task,
        length,
        tuple(target for _, target in targets),
        tuple(e.modality for e in subjects),
        relevance,
        words,
    )


@dataclass(frozen=True)
class TaskSteering:
    """What the bars ask of one task, over its cells."""

    task: str
    cells: tuple[SteeringCell, ...]

    @property
    def rising_cells(self) -> int:
        """Cells whose mean rises at every step."""
        return sum(cell.rising_steps == cell.steps for cell in self.cells)

    @property
    def lowest_spearman(self) -> SteeringCell:
        """The cell that obeys least."""
        return min(self.cells, key=lambda cell: cell.spearman.value)

    @cached_property
    def error(self) -> Estimate:
        """Mean |achieved - target| over the cells."""
        return intervals.mean_of([cell.errors for cell in self.cells])

    @property
    def within_20(self) -> Estimate:
        """Share of answers within ±20 % of their length, over the cells."""
        return intervals.mean_of([cell.within_20 for cell in self.cells])


def by_task(found: Sequence[SteeringCell]) -> list[TaskSteering]:
    """The cells of each task."""
    tasks = dict.fromkeys(cell.task for cell in found)
    return [TaskSteering(task, tuple(cell for cell in found if cell.task == task)) for task in tasks]


def calibrate(found: Sequence[SteeringCell]) -> dict[str, list[dict[str, float]]]:
    """Per task, one row per length and target: what was achieved, its percentiles, and the count (30 at least)."""
    calibration: dict[str, list[dict[str, float]]] = defaultdict(list)
    for cell in found:
        for step, target in enumerate(cell.targets):
            values = cell.relevance[:, :, step].ravel()
            if len(values) < MIN_ROWS:
                continue
            percentiles = {f"p{q:02d}": round(float(np.percentile(values, q)), 3) for q in (5, 10, 90, 95)}
            row = {"length": cell.length, "target": target, "achieved": round(float(values.mean()), 3)}
            calibration[cell.task].append({**row, **percentiles, "count": len(values)})
    return dict(calibration)
