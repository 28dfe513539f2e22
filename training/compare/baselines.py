"""A large model behind an endpoint: one plain instruction an input, its answers streamed, timed and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.compare.tasks import Group, Manner
from training.evaluation.subjects import Subject
from training.judge.run import first_listed
from training.teacher.answers import first_paragraph
from training.teacher.asking import Asking
from training.teacher.endpoint import Endpoint
from training.teacher.journal import Answer, Journal, request_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What one system gave: an answer to each input that it could answer, and what is known of it."""

    name: str
    model: str
    answers: dict[Subject, Answer]
    parameters: float | None
    about: dict[str, Any]

    def text(self, subject: Subject) -> str:
        """Without "Sure! Here is a description:" and quotation marks around it; first paragraph only."""
        return first_paragraph(self.answers[subject].text)


def ask(
    name: str,
    endpoint: Endpoint,
    model: str | None,
    parameters: float | None,
    groups: Sequence[Group],
    manner: Manner,
    concurrency: int,
    journal_path: Path,
) -> Answers:
    """Every group's inputs, each once: what the journal holds is not asked again."""
    if model is None or parameters is None:
        model, parameters = _looked_up(endpoint, model, parameters)
    bodies = {
        subject: manner.body(model, group.template, subject) for group in groups for subject in group.subjects
    }
    keys = {subject: request_key(body) for subject, body in bodies.items()}
    journal = Journal(journal_path)
    try:
        asking = Asking(endpoint, journal, name)
        requests = {keys[subject]: body for subject, body in bodies.items()}
        found = asyncio.run(asking.ask(requests, concurrency))
    finally:
        journal.close()
    answers = {subject: found[key] for subject, key in keys.items() if key in found}
    about = {
        "url": endpoint.url,
        "requests": len(requests),
        "requests_of_this_run": asking.new,
        "attempts": dict(endpoint.outcomes),
        "given_up": dict(asking.given_up),
        "prompt_tokens": sum(answer.prompt_tokens for answer in found.values()),
        "completion_tokens": sum(answer.completion_tokens for answer in found.values()),
        "tokens_estimated": sum(not answer.counted for answer in found.values()),
    }
    return Answers(name, model, answers, parameters, about)


def _looked_up(endpoint: Endpoint, model: str | None, parameters: float | None) -> tuple[str, float | None]:
    """The model's name and its parameters, from the first model listed where they aren't given.

    llama.cpp's server tells `meta.n_params`; most others tell nothing.
    """
    listed = asyncio.run(first_listed(endpoint))
    meta = listed.get("meta")
    told = meta.get("n_params") if isinstance(meta, dict) and model in (None, listed["id"]) else None
    if parameters is None and isinstance(told, int | float):
        parameters = float(told)
    return model or str(listed["id"]), parameters
