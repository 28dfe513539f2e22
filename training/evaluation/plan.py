"""What is asked: requests as a client would send them, always n = 1 (but for the best-of-n baseline), three seeds.

A request is clamped into the support of the bundle that gets it, as the service does it. So two bundles can be given
the very same requests, and a target out of the support counts as missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from promptdial import support
from promptdial.bundle import Bundle
from promptdial.command import Command
from training.errors import TrainingError
from training.evaluation.subjects import REFERENCED_TASK, Subject, choose, digest

LENGTHS = (12, 25, 50, 80, 120)  # of the length bar
CELL_LENGTHS = (6, *LENGTHS)  # of the steering cells: those inside a task's support, four at most
CELLS = 4
TARGETS = 5  # relevances per cell
BEST_OF = 4


@dataclass(frozen=True, slots=True)
class Case:
    """One request.

    purpose: `best` (highest relevance, the reference's length), `free` (no commands), `best-of`, `length`, or `sweep`
    (the steering cells). relevance, length: the targets of the request; a relevance of None with a length is the
    service's default. step: which of the cell's targets, in a sweep.
    """

    purpose: str
    subject: Subject
    relevance: float | None
    length: int | None
    seed: int
    step: int = 0

    @property
    def n(self) -> int:
        """Candidates, of which the most relevant is taken."""
        return BEST_OF if self.purpose == "best-of" else 1

    @property
    def sampling_seed(self) -> int:
        """The same for all targets of a sweep: they differ by the target alone."""
        subject = self.subject
        return digest(self.purpose, subject.task, subject.modality, subject.input, self.length, self.seed)

    def command(self, bundle: Bundle) -> Command:
        """As the service renders it for this bundle."""
        asked = Command(self.subject.task, self.subject.modality, self.relevance, self.length)
        return asked if self.purpose == "free" else bundle.support.clamp(asked)[0]


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is asked: inputs with references per modality, inputs per steering cell, seeds."""

    inputs: int = 60
    cell_inputs: int = 18
    seeds: int = 3

    @property
    def length_inputs(self) -> int:
        """Inputs per modality that are asked for all the lengths."""
        return -(-self.inputs // 2)


def plan(bundle: Bundle, subjects: Sequence[Subject], scope: Scope) -> list[Case]:
    """All requests. Raises TrainingError when the bundle has no support, or nobody wrote a reference."""
    cases = [*_expand(subjects, scope), *_sweeps(bundle, subjects, scope)]
    return [
        replace(case, seed=seed)
        for seed in range(scope.seeds)
        for case in cases
        if seed == 0 or case.n == 1  # the baseline that takes the most time needs no intervals
    ]


def referenced(subjects: Sequence[Subject], scope: Scope) -> dict[str, list[Subject]]:
    """Per modality the `expand` inputs that a reference is held against."""
    groups: dict[str, list[Subject]] = defaultdict(list)
    for each in subjects:
        if each.task == REFERENCED_TASK and each.reference:
            groups[each.modality].append(each)
    if not groups:
        raise TrainingError(
            f"no input of task {REFERENCED_TASK!r} has a reference: nothing to hold answers against"
        )
    return {modality: choose(group, scope.inputs) for modality, group in sorted(groups.items())}


def _expand(subjects: Sequence[Subject], scope: Scope) -> Iterator[Case]:
    """`expand` against its references, its baselines, and its lengths."""
    for chosen in referenced(subjects, scope).values():
        for each in chosen:
            length = each.reference_words
            yield Case("best", each, 1.0, length, 0)
            yield Case("free", each, None, None, 0)
            yield Case("best-of", each, 1.0, length, 0)
        for each in chosen[: scope.length_inputs]:
            yield from (Case("length", each, None, length, 0) for length in LENGTHS)


def _sweeps(bundle: Bundle, subjects: Sequence[Subject], scope: Scope) -> Iterator[Case]:
    """Per task and length five relevances from the cell's 10th to its 90th percentile, over all modalities."""
    groups: dict[str, dict[str, list[Subject]]] = defaultdict(lambda: defaultdict(list))
    for each in subjects:
        groups[each.task][each.modality].append(each)
    for task, modalities in sorted(groups.items()):
        for cell in cells(bundle, task):
            for _, group in sorted(modalities.items()):
                chosen = choose(group, -(-scope.cell_inputs // len(modalities)), f"{task} {cell.length}")
                for step, target in enumerate(np.linspace(cell.tenth, cell.p90, TARGETS)):
                    for each in chosen:
                        yield Case("sweep", each, round(float(target), 3), cell.length, 0, step)


def cells(bundle: Bundle, task: str) -> list[support.Cell]:
    """The support's cells nearest to the lengths of the report, inside what the task's lengths reach."""
    reach = bundle.support.length_range(task)
    if reach is None:
        raise TrainingError(f"{bundle.path}/bundle.json holds no support for task {task!r}: export it again")
    wanted = [length for length in CELL_LENGTHS if reach[0] <= length <= reach[1]]
    wanted = wanted or [bundle.support.default_length(task) or 1]
    spread = np.unique(np.linspace(0, len(wanted) - 1, min(CELLS, len(wanted))).round().astype(int))
    found = [bundle.support.cell(task, wanted[index]) for index in spread]
    inside = {cell.length: cell for cell in found if cell and reach[0] <= cell.length <= reach[1]}
    return list(inside.values())
