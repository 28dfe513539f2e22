"""`expand` against its references: relevance, diversity, copying, repetition, recall, length; and the baselines.

Everything is measured per input, seeds averaged within an input, and held against the reference of that input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from promptdial.command import word_count
from training import measures
from training.evaluation import baselines, intervals
from training.evaluation.answers import Answer
from training.evaluation.intervals import Estimate, Floats, Indices
from training.evaluation.subjects import Subject
from training.rules import words

MODEL, REFERENCE, COPY = "model", "reference", "copy-input"
PURPOSES = {MODEL: "best", "no commands": "free", "best of 4 (not n = 1)": "best-of"}

# Names of figures, as in report.json and bundle.json.
RELEVANCE, COPYING, REPETITION = "relevance", "copy_rate", "repetition"
RECALL, WITHIN_20, WITHIN_30, WHOLE = "entity_recall", "length_within_20", "length_within_30", "ends_sentence"
DISTINCT, DIVERSITY, RELEVANCE_RATIO = "distinct_2_ratio", "diversity_ratio", "relevance_ratio"
OVERALL = "overall"
PER_INPUT = (RELEVANCE, COPYING, REPETITION, RECALL, WITHIN_20, WITHIN_30, WHOLE)


@dataclass(frozen=True)
class System:
    """What one writer gave for each input: texts and their relevance (inputs, seeds), beside the references."""

    name: str
    subjects: tuple[Subject, ...]
    texts: tuple[tuple[str, ...], ...]
    relevance: Floats

    @cached_property
    def per_input(self) -> dict[str, Floats]:
        """Every measure of one text, averaged over the seeds of an input: (inputs,)."""
        rows = [
            [_measure(subject, text) for text in texts]
            for subject, texts in zip(self.subjects, self.texts, strict=True)
        ]
        found = {name: np.array([[row[name] for row in seeds] for seeds in rows]) for name in rows[0][0]}
        found[RELEVANCE] = self.relevance
        return {name: values.mean(axis=1) for name, values in found.items()}

    @cached_property
    def _cut(self) -> list[list[tuple[list[str], list[str]]]]:
        """By seed, then input: words of the text and of the reference, both cut to the shorter one's number."""
        return [
            [
                _equally_long(row[seed], subject.reference)
                for row, subject in zip(self.texts, self.subjects, strict=True)
            ]
            for seed in range(len(self.texts[0]))
        ]

    @cached_property
    def _grams(self) -> list[list[tuple[measures.Grams, measures.Grams]]]:
        return [[(measures.grams(own), measures.grams(other)) for own, other in seed] for seed in self._cut]

    def distinct_ratio(self, chosen: Indices) -> float:
        """Distinct-2 as a ratio to the references, at equal word count, over a set of inputs."""
        ratios = []
        for seed in self._cut:
            own, other = zip(*(seed[index] for index in chosen), strict=True)
            ratios.append(_over(measures.distinct_2(own), measures.distinct_2(other)))
        return float(np.mean(ratios))

    def diversity_ratio(self, chosen: Indices) -> float:
        """1 - self-BLEU as a ratio to the references, at equal word count, over a set of inputs."""
        ratios = []
        for seed in self._grams:
            own, other = zip(*(seed[index] for index in chosen), strict=True)
            ratios.append(_over(1 - measures.self_bleu(own), 1 - measures.self_bleu(other)))
        return float(np.mean(ratios))


@dataclass(frozen=True)
class Quality:
    """One modality: its systems and their figures, by name."""

    modality: str
    systems: dict[str, System]
    figures: dict[str, dict[str, Estimate]]  # by system, then figure
    random_relevance: float


def assess(
    modality: str, answers: Sequence[Answer], score: Callable[[list[str], list[str]], list[float]]
) -> Quality:
    """All systems and figures of one modality, from the answers to its `expand` requests."""
    subjects = _subjects(answers)
    inputs, references = [each.input for each in subjects], [each.reference for each in subjects]
    written = {
        REFERENCE: references,
        "template": [baselines.template(e.input, e.modality, e.reference_words) for e in subjects],
        COPY: [baselines.copy_input(each.input) for each in subjects],
    }
    systems = {name: _system(name, purpose, subjects, answers) for name, purpose in PURPOSES.items()}
    for name, texts in written.items():
        relevance = np.array(score(inputs, texts))[:, None]
        systems[name] = System(name, subjects, tuple((text,) for text in texts), relevance)
    reference = systems[REFERENCE]
    return Quality(
        modality,
        systems,
        {name: figures(system, reference) for name, system in systems.items()},
        float(np.mean(score(inputs, [*references[1:], references[0]]))),
    )


def figures(system: System, reference: System) -> dict[str, Estimate]:
    """Every figure of a system, with its interval; set measures have none but for the model."""
    found = {name: intervals.mean(system.per_input[name]) for name in PER_INPUT}
    found[RELEVANCE_RATIO] = intervals.ratio(system.per_input[RELEVANCE], reference.per_input[RELEVANCE])
    halves = intervals.HALVES if system.name == MODEL else 0
    count = len(system.subjects)
    found[DISTINCT] = intervals.of_set(system.distinct_ratio, count, halves)
    found[DIVERSITY] = intervals.of_set(system.diversity_ratio, count, halves)
    found[OVERALL] = _plain(
        overall(found, {name: intervals.mean(reference.per_input[name]) for name in PER_INPUT})
    )
    return found


def overall(found: dict[str, Estimate], reference: dict[str, Estimate]) -> float:
    """Geometric mean of seven shares of what the reference has, each at most 1.

    relevance, distinct pairs, diversity, words that are not copied, spans that are not repeated, content words kept,
    and length. Who fails altogether on one of them gets nothing, however good the rest.
    """
    shares = [
        found[RELEVANCE_RATIO].value,
        found[DISTINCT].value,
        found[DIVERSITY].value,
        _over(1 - found[COPYING].value, 1 - reference[COPYING].value),
        _over(1 - found[REPETITION].value, 1 - reference[REPETITION].value),
        _over(found[RECALL].value, reference[RECALL].value),
        found[WITHIN_20].value,
    ]
    return float(np.prod(np.clip(shares, 0.0, 1.0)) ** (1 / len(shares)))


def _measure(subject: Subject, text: str) -> dict[str, float]:
    wanted, given = subject.reference_words, word_count(text)
    return {
        COPYING: measures.copy_rate(subject.input, text),
        REPETITION: measures.repetition(text),
        RECALL: measures.entity_recall(subject.input, text),
        WITHIN_20: float(abs(given - wanted) <= 0.2 * wanted),
        WITHIN_30: float(abs(given - wanted) <= 0.3 * wanted),
        WHOLE: float(measures.ends_sentence(text)),
    }


def _subjects(answers: Sequence[Answer]) -> tuple[Subject, ...]:
    return tuple(dict.fromkeys(found.case.subject for found in answers))


def _system(name: str, purpose: str, subjects: Sequence[Subject], answers: Sequence[Answer]) -> System:
    rows: dict[Subject, list[Answer]] = defaultdict(list)
    for found in answers:
        if found.case.purpose == purpose:
            rows[found.case.subject].append(found)
    ordered = [sorted(rows[subject], key=lambda found: found.case.seed) for subject in subjects]
    return System(
        name,
        tuple(subjects),
        tuple(tuple(found.text for found in row) for row in ordered),
        np.array([[found.relevance for found in row] for row in ordered]),
    )


def _equally_long(text: str, reference: str) -> tuple[list[str], list[str]]:
    own, other = words(text), words(reference)
    shorter = min(len(own), len(other))
    return own[:shorter], other[:shorter]


def _over(value: float, base: float) -> float:
    return value / base if base else float("nan")


def _plain(value: float) -> Estimate:
    return Estimate(value, float("nan"), float("nan"))
