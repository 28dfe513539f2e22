"""One bundle, evaluated: its answers and every figure that comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from promptdial.bundle import Bundle
from promptdial.relevance import RelevanceScorer
from training.evaluation import answers as answering
from training.evaluation import lengths, quality, steering
from training.evaluation.answers import Answer
from training.evaluation.plan import Case
from training.evaluation.quality import MODEL, REFERENCE


@dataclass(frozen=True)
class Evaluation:
    """Figures of a bundle: `expand` by modality, its lengths by modality, the steering cells of all tasks."""

    bundle: Bundle
    answers: list[Answer]
    quality: dict[str, quality.Quality]
    lengths: dict[str, lengths.Lengths]
    cells: list[steering.SteeringCell]
    validation_loss: float | None

    @property
    def name(self) -> str:
        """As in the service's answers."""
        return f"{self.bundle.name}@{self.bundle.version}"

    def metrics(self) -> dict[str, Any]:
        """What goes into `bundle.json`, figures rounded."""
        found: dict[str, Any] = {f"expand_{name}": self._expand(name) for name in self.quality}
        for task in steering.by_task(self.cells):
            found[f"steering_{task.task}"] = {
                "cells": len(task.cells),
                "cells_rising_at_every_step": task.rising_cells,
                "lowest_spearman": round(task.lowest_spearman.spearman.value, 3),
                "mean_error": round(task.error.value, 3),
                "length_within_20_percent": round(task.within_20.value, 3),
            }
        return found if self.validation_loss is None else {**found, "validation_loss": self.validation_loss}

    def _expand(self, modality: str) -> dict[str, Any]:
        found, fixed = self.quality[modality], self.lengths[modality]
        model, reference = found.figures[MODEL], found.figures[REFERENCE]
        figures: dict[str, Any] = {"inputs": len(found.systems[MODEL].subjects)}
        figures |= {name: round(each.value, 3) for name, each in model.items()}
        figures |= {f"{name}_reference": round(reference[name].value, 3) for name in quality.PER_INPUT}
        figures["relevance_random"] = round(found.random_relevance, 3)
        for share in (20, 30):
            within = float(fixed.within_per_input(share / 100).mean())
            figures[f"fixed_lengths_within_{share}_percent"] = round(within, 3)
        return figures


def evaluate(
    bundle: Bundle,
    cases: Sequence[Case],
    scorer: RelevanceScorer,
    threads: int,
    kept: Path,
    validation_loss: float | None = None,
) -> Evaluation:
    """Ask, measure and count."""
    answers = answering.answer(bundle, cases, scorer, threads, kept)
    expand = [found for found in answers if found.case.purpose in quality.PURPOSES.values()]
    modalities = sorted({found.case.subject.modality for found in expand})
    assessed = {
        modality: quality.assess(
            modality,
            [found for found in expand if found.case.subject.modality == modality],
            partial(answering.score, scorer, threads=threads),
        )
        for modality in modalities
    }
    return Evaluation(
        bundle, answers, assessed, lengths.lengths(answers), steering.cells(answers), validation_loss
    )
