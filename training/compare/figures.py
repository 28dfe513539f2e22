"""Figures of every system, and of the student against each baseline: input by input, with 95 % intervals.

A system is a baseline, the student, or the references. Only inputs that all of them answered count. Distinct-2 and
self-BLEU depend on the number of words: of two systems each pair of texts is cut to the shorter one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from promptdial.command import word_count
from training.compare.baselines import Answers
from training.compare.student import NAME as STUDENT
from training.compare.tasks import Group
from training.evaluation import comparison, intervals, quality
from training.evaluation.comparison import Difference
from training.evaluation.intervals import Estimate, Floats
from training.evaluation.quality import REFERENCE, System
from training.evaluation.subjects import Subject

JUDGED = "judged relevance"
FIRST, TOTAL, WORDS = "first token, s", "whole text, s", "words"
DISTINCT, DIVERSITY = "distinct-2 at equal word count", "1 − self-BLEU at equal word count"
RATIO = "relevance, ÷ the baseline's, − 1"

LABELS = {**comparison.LABELS, quality.WITHIN_30: "within ±30 % of the reference's length"}

Score = Callable[[list[str], list[str]], list[float]]


@dataclass(frozen=True)
class Measured:
    """One system on one group: its texts with all measures, and values per input that texts alone don't tell.

    judged: a judge's relevance (inputs,), nan where there is no verdict; first_s, total_s: seconds (inputs,), nan for
    references.
    """

    system: System
    judged: Floats | None
    first_s: Floats
    total_s: Floats

    @property
    def name(self) -> str:
        """Of the system."""
        return self.system.name

    @property
    def words(self) -> Floats:
        """Of each text."""
        return np.array([word_count(texts[0]) for texts in self.system.texts], float)

    def per_input(self) -> dict[str, Floats]:
        """Every measure of single texts by its name in the report: (inputs,)."""
        found = {label: self.system.per_input[name] for name, label in LABELS.items()}
        found[WORDS] = self.words
        return found if self.judged is None else {JUDGED: self.judged, **found}


@dataclass(frozen=True)
class Compared:
    """One group: the systems by name (references first, the student last), and student − baseline by baseline."""

    group: Group
    systems: dict[str, Measured]
    differences: dict[str, list[Difference]]

    @property
    def inputs(self) -> int:
        """Inputs that every system answered."""
        return len(self.group.subjects)


def answered(group: Group, systems: Sequence[Answers]) -> Group:
    """The group's inputs that every system answered."""
    kept = [each for each in group.subjects if all(each in system.answers for system in systems)]
    return replace(group, subjects=tuple(kept))


def compare(
    group: Group, systems: Sequence[Answers], score: Score, judged: dict[tuple[str, str], float] | None
) -> Compared:
    """All figures of a group whose inputs every system answered."""
    subjects = group.subjects
    references = [subject.reference for subject in subjects]
    nothing = np.full(len(references), np.nan)
    found = {REFERENCE: _measured(REFERENCE, subjects, references, nothing, nothing, score, judged)}
    for each in systems:
        answers = [each.answers[subject] for subject in subjects]
        found[each.name] = _measured(
            each.name,
            subjects,
            [each.text(subject) for subject in subjects],
            np.array([math.nan if answer.first_s is None else answer.first_s for answer in answers]),
            np.array([math.nan if answer.total_s is None else answer.total_s for answer in answers]),
            score,
            judged,
        )
    student = found[STUDENT]
    differences = {
        name: _differences(group.name, student, other)
        for name, other in found.items()
        if name not in (REFERENCE, STUDENT)
    }
    return Compared(group, found, differences)


def _measured(
    name: str,
    subjects: tuple[Subject, ...],
    texts: list[str],
    first_s: Floats,
    total_s: Floats,
    score: Score,
    judged: dict[tuple[str, str], float] | None,
) -> Measured:
    inputs = [subject.input for subject in subjects]
    relevance = np.array(score(inputs, texts))[:, None]
    system = System(name, subjects, tuple((text,) for text in texts), relevance)
    verdicts = None
    if judged is not None:
        verdicts = np.array([judged.get(pair, math.nan) for pair in zip(inputs, texts, strict=True)])
    return Measured(system, verdicts, first_s, total_s)


def _differences(where: str, student: Measured, other: Measured) -> list[Difference]:
    """Student − baseline of every measure; of sets of texts and of relevance also the ratio − 1."""
    found = []
    less = {comparison.LABELS[name] for name in comparison.LESS_IS_BETTER}
    theirs = other.per_input()
    for label, own in student.per_input().items():
        if label != WORDS:
            found.append(_difference(where, label, own, theirs[label], label in less))
    found[1:1] = [_ratio(where, student, other), *_of_sets(where, student, other)]
    for label, own, base in (
        (FIRST, student.first_s, other.first_s),
        (TOTAL, student.total_s, other.total_s),
    ):
        found.append(_difference(where, label, own, base, less=True))
    return found


def _difference(where: str, label: str, own: Floats, other: Floats, less: bool) -> Difference:
    """Of the inputs for which both have a value."""
    both = ~(np.isnan(own) | np.isnan(other))
    means = [float(values[both].mean()) if both.any() else math.nan for values in (own, other)]
    return Difference(where, label, means[0], means[1], intervals.mean((own - other)[both]), less)


def _ratio(where: str, student: Measured, other: Measured) -> Difference:
    own, base = (each.system.per_input[quality.RELEVANCE] for each in (student, other))
    return Difference(
        where, RATIO, float(own.mean()), float(base.mean()), _less_one(intervals.ratio(own, base))
    )


def _of_sets(where: str, student: Measured, other: Measured) -> list[Difference]:
    """Variety of the student's texts as a ratio to the baseline's, − 1, each pair of texts cut to one length."""
    theirs = tuple(
        replace(subject, reference=texts[0])
        for subject, texts in zip(student.system.subjects, other.system.texts, strict=True)
    )
    beside = replace(student.system, subjects=theirs)
    found = []
    for label, of in ((DISTINCT, beside.distinct_ratio), (DIVERSITY, beside.diversity_ratio)):
        ratio = intervals.of_set(of, len(theirs))
        found.append(Difference(where, f"{label}, ÷ the baseline's, − 1", ratio.value, 1.0, _less_one(ratio)))
    return found


def _less_one(found: Estimate) -> Estimate:
    return Estimate(found.value - 1, found.low - 1, found.high - 1)
