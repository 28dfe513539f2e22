"""`expand` at fixed lengths: how near the answers come, and whether they are cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training import measures
from training.evaluation import intervals
from training.evaluation.answers import Answer
from training.evaluation.intervals import Estimate, Floats
from training.evaluation.plan import LENGTHS


@dataclass(frozen=True)
class Lengths:
    """One modality: words and whole last sentences of every answer (inputs, seeds, lengths), and what was commanded.

    commanded: the lengths after clamping into the support.
    """

    modality: str
    words: Floats
    whole: Floats
    commanded: tuple[int, ...]

    def within(self, share: float) -> Floats:
        """Whether each answer's length is within ±share of the one asked for."""
        asked = np.array(LENGTHS)
        found: Floats = (np.abs(self.words - asked) <= share * asked).astype(float)
        return found

    def within_per_input(self, share: float) -> Floats:
        """Over all lengths and seeds."""
        found: Floats = self.within(share).mean(axis=(1, 2))
        return found

    @property
    def whole_per_input(self) -> Floats:
        """Share that ends with a sentence end, over all lengths and seeds."""
        found: Floats = self.whole.mean(axis=(1, 2))
        return found

    def mean_words(self, index: int) -> Estimate:
        """At one of the lengths."""
        return intervals.mean(self.words[:, :, index].mean(axis=1))

    def share_within(self, index: int, share: float) -> Estimate:
        """At one of the lengths."""
        return intervals.mean(self.within(share)[:, :, index].mean(axis=1))


def lengths(answers: Sequence[Answer]) -> dict[str, Lengths]:
    """By modality, from the `length` answers."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for found in answers:
        if found.case.purpose == "length":
            groups[found.case.subject.modality].append(found)
    return {modality: _lengths(modality, group) for modality, group in sorted(groups.items())}


def _lengths(modality: str, answers: Sequence[Answer]) -> Lengths:
    row = {subject: index for index, subject in enumerate(dict.fromkeys(a.case.subject for a in answers))}
    shape = (len(row), 1 + max(found.case.seed for found in answers), len(LENGTHS))
    words, whole = np.full(shape, np.nan), np.full(shape, np.nan)
    commanded = dict.fromkeys(LENGTHS, 0)
    for found in answers:
        asked = found.case.length or 0
        place = row[found.case.subject], found.case.seed, LENGTHS.index(asked)
        words[place], whole[place] = found.words, measures.ends_sentence(found.text)
        commanded[asked] = found.command.length or 0
    return Lengths(modality, words, whole, tuple(commanded.values()))
