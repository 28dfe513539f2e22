"""What is compared on: inputs that have a reference and an instruction, by task and modality."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.errors import TrainingError
from training.evaluation.subjects import Subject, choose
from training.teacher.replies import STREAMED
from training.teacher.templates import Template

log = logging.getLogger(__name__)

FEWEST = 4  # inputs that figures can be made of
TOKENS_PER_WORD, SPARE_TOKENS = 2, 32  # what the service gives the student: room for half as much again


@dataclass(frozen=True)
class Group:
    """Inputs of one task and modality, with the instruction that baselines get."""

    template: Template
    subjects: tuple[Subject, ...]

    @property
    def name(self) -> str:
        """As in the report."""
        return f"{self.template.task}, {self.template.modality}"


@dataclass(frozen=True)
class Manner:
    """How baselines are asked."""

    temperature: float
    top_p: float
    seed: int
    examples: bool

    def body(self, model: str, template: Template, subject: Subject) -> dict[str, Any]:
        """A streamed request for a text of the reference's length."""
        length = subject.reference_words
        messages = template.messages(subject.input, length)
        return {
            "model": model,
            "messages": messages if self.examples else [messages[0], messages[-1]],
            "max_tokens": TOKENS_PER_WORD * length + SPARE_TOKENS,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            **STREAMED,
        }


def groups(subjects: Sequence[Subject], templates: Sequence[Template], count: int) -> list[Group]:
    """At most `count` inputs of each task and modality. Raises TrainingError when there are none at all."""
    by_kind = {(template.task, template.modality): template for template in templates}
    found: dict[tuple[str, str], list[Subject]] = defaultdict(list)
    for subject in subjects:
        if subject.reference and (subject.task, subject.modality) in by_kind:
            found[subject.task, subject.modality].append(subject)
    if not found:
        known = ", ".join(f"{task} ({modality})" for task, modality in by_kind)
        raise TrainingError(f"no input has both a reference and a template; there are templates of {known}")
    return enough([Group(by_kind[kind], tuple(choose(each, count))) for kind, each in sorted(found.items())])


def enough(groups: Sequence[Group]) -> list[Group]:
    """The groups that figures can be made of; the others are said. Raises TrainingError when none is left."""
    for group in groups:
        if len(group.subjects) < FEWEST:
            log.warning("%s: fewer than %d inputs, left out", group.name, FEWEST)
    kept = [group for group in groups if len(group.subjects) >= FEWEST]
    if not kept:
        raise TrainingError(
            f"no task has {FEWEST} inputs with a reference that every system answered: give more, or see above what "
            "was refused"
        )
    return kept
