"""100 answers to read, the worst among them and marked so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from training import measures
from training.evaluation.answers import Answer
from training.evaluation.subjects import digest

COUNT = 100
WORST = 10  # of each kind


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer, and why it is among the worst (empty if it was drawn)."""

    answer: Answer
    mark: str

    @property
    def asked(self) -> str:
        """The request in words."""
        case, command = self.answer.case, self.answer.command
        parts = [case.subject.task, case.subject.modality]
        if command.relevance is not None:
            parts.append(f"relevance {command.relevance:.2f}")
        if command.length is not None:
            parts.append(f"{command.length} words")
        return ", ".join(parts)


def choose(answers: Sequence[Answer]) -> list[Sample]:
    """The worst of each kind at the highest target first, then answers drawn from all commands, by hash."""
    single = [found for found in answers if found.case.purpose in ("best", "length", "sweep")]
    best = [found for found in single if found.case.purpose == "best"]
    lengths = [found for found in single if found.case.purpose == "length"]
    kinds: tuple[tuple[str, Iterable[Answer], Callable[[Answer], float]], ...] = (
        ("least relevant", best, lambda a: a.relevance),
        ("most repetitive", best, lambda a: -measures.repetition(a.text)),
        ("farthest from its length", lengths, lambda a: -abs(a.words / (a.case.length or 1) - 1)),
    )
    chosen: dict[Answer, str] = {}
    for kind, group, worth in kinds:
        ranked = sorted((found for found in group if found not in chosen), key=worth)
        chosen |= {found: f"worst: {kind}" for found in ranked[:WORST]}
    drawn = sorted((a for a in single if a not in chosen), key=lambda a: digest(a.text, a.case.seed))
    chosen |= {found: "" for found in drawn[: COUNT - len(chosen)]}
    return [Sample(found, mark) for found, mark in chosen.items()]
