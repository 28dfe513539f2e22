"""The student's answers, one at a time: through its own engine in this process, or a running service."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from promptdial.bundle import Bundle, load_bundle
from promptdial.engine import Engine, Event, GenerationRequest, Sampling, Token
from training.compare.baselines import Answers
from training.errors import TrainingError
from training.evaluation import subjects
from training.evaluation.plan import Case
from training.evaluation.subjects import Subject
from training.teacher.journal import Answer, Journal

log = logging.getLogger(__name__)

NAME = "student"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Written:
    """One text, its tokens, how it ended, and the seconds to its first token and its end."""

    text: str
    prompt_tokens: int
    tokens: int
    finish: str
    first_s: float | None
    total_s: float


class Student(Protocol):
    """What writes for the student."""

    name: str  # with version
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    parameters: float | None
    where: str

    def usable(self, found: Sequence[Subject]) -> list[Subject]:
        """Those that it can read, as far as can be told before asking."""

    def write(self, subject: Subject, seed: int) -> Written | None:
        """The text at the highest relevance and the reference's length; None if it is refused."""


class InProcess:
    """A bundle's own engine, without HTTP."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.engine = bundle, engine
        self.tokenizer, self.sampling = bundle.tokenizer(), Sampling(**bundle.sampling)
        self.name = f"{bundle.name}@{bundle.version}"
        self.tasks, self.modalities = tuple(bundle.tasks), tuple(bundle.format.modalities)
        self.parameters: float | None = float(bundle.architecture.parameters)
        self.where = "its own engine in the comparing process, without HTTP"

    def usable(self, found: Sequence[Subject]) -> list[Subject]:
        """Those whose tokens fit."""
        return subjects.usable(found, self.bundle)

    def write(self, subject: Subject, seed: int) -> Written | None:
        """From text to text, tokenizing included."""
        case = Case("best", subject, 1.0, subject.reference_words, seed)
        first: list[float] = []
        began = time.monotonic()

        def on_event(event: Event) -> None:
            if isinstance(event, Token) and not first:
                first.append(time.monotonic() - began)

        command = case.command(self.bundle)
        request = GenerationRequest(
            prompt=tuple(self.tokenizer.prompt(command, subject.input)),
            max_tokens=self.bundle.limits.max_tokens,
            sampling=self.sampling,
            seed=case.sampling_seed,
            words=command.length,
        )
        ((tokens, reason),) = self.engine.submit(request, on_event).result().candidates
        text = self.tokenizer.decode(tokens)
        return Written(
            text,
            len(request.prompt),
            len(tokens),
            reason,
            first[0] if first else None,
            time.monotonic() - began,
        )


class Served:
    """A running service, through `POST /generate`."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url, self.client = url, client
        model, tasks = self._get("/model"), self._get("/tasks")["tasks"]
        self.name = f"{model['name']}@{model['version']}"
        self.tasks = tuple(task["name"] for task in tasks)
        self.modalities = tuple(model["modalities"])
        parameters = model["architecture"].get("parameters")
        self.parameters: float | None = None if parameters is None else float(parameters)
        self.where = f"the service at {url}, over HTTP, unscored"

    def usable(self, found: Sequence[Subject]) -> list[Subject]:
        """All of the tasks and modalities that are served; the service itself refuses what is too long."""
        return [each for each in found if each.task in self.tasks and each.modality in self.modalities]

    def write(self, subject: Subject, seed: int) -> Written | None:
        """Streamed, so that the first token has a time."""
        body = {
            "task": subject.task, "modality": subject.modality, "input": subject.input, "target_relevance": 1.0,
            "target_length": subject.reference_words, "seed": Case("best", subject, 1.0, 0, seed).sampling_seed,
            "score": False, "stream": True,
        }  # fmt: skip
        first_s: float | None = None
        candidate: dict[str, Any] = {}
        began = time.monotonic()
        try:
            with self.client.stream("POST", "/generate", json=body) as response:
                if response.status_code in (413, 422):
                    log.warning("the service refuses %r: %s", subject.input[:60], response.read()[:200])
                    return None
                response.raise_for_status()
                for event, data in _events(response.iter_lines()):
                    if event == "token" and first_s is None:
                        first_s = time.monotonic() - began
                    elif event == "candidate":
                        candidate = data
                    elif event == "error":
                        raise TrainingError(f"{self.url} broke off: {data.get('detail')}")
                    elif event == "done":
                        usage, total_s = data["usage"], time.monotonic() - began
                        return Written(
                            candidate["text"], usage["prompt_tokens"], usage["completion_tokens"],
                            candidate["finish_reason"], first_s, total_s,
                        )  # fmt: skip
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise TrainingError(f"{self.url} failed: {error!r}; the same command goes on") from error
        raise TrainingError(f"{self.url}: the answer ended before it was done; the same command goes on")

    def _get(self, path: str) -> Any:
        try:
            return self.client.get(path).raise_for_status().json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise TrainingError(f"{self.url}{path} is no running service: {error}") from error


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def opened(given: str, threads: int) -> Iterator[Student]:
    """The student at a bundle's path or a service's URL."""
    if given.startswith(("http://", "https://")):
        url = given.rstrip("/")
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            yield Served(url, client)
        return
    bundle = load_bundle(Path(given))
    engine = Engine.from_bundle(bundle, threads=threads, slots=1)
    try:
        engine.start()
        yield InProcess(bundle, engine)
    finally:
        engine.close()


def ask(student: Student, found: Sequence[Subject], seed: int, journal_path: Path) -> Answers:
    """Every input once, one after the other; those in the journal are not written again."""
    journal = Journal(journal_path)
    began, new = time.monotonic(), 0
    answers: dict[Subject, Answer] = {}
    try:
        for subject in found:
            key = _key(student, subject, seed)
            if key not in journal.answers:
                written = student.write(subject, seed)
                if written is None:
                    continue
                journal.append(_answer(key, student.name, written))
                new += 1
            answers[subject] = journal.answers[key]
    finally:
        journal.close()
    log.info("%s: %d texts, %d of them new, %.0f s", NAME, len(answers), new, time.monotonic() - began)
    about = {"where": student.where, "requests": len(found), "requests_of_this_run": new}
    return Answers(NAME, student.name, answers, student.parameters, about)


def _key(student: Student, subject: Subject, seed: int) -> str:
    """Everything that a text and its times depend on."""
    parts = (student.name, student.where, subject.task, subject.modality, subject.input,
             subject.reference_words, seed)  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _answer(key: str, model: str, written: Written) -> Answer:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Answer(
        key, written.text, written.finish, written.prompt_tokens, written.tokens, model, now,
        first_s=written.first_s, total_s=written.total_s,
    )  # fmt: skip
