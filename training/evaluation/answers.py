"""From requests to measured answers, through the engine that serves, 16 at a time.

What was generated is kept in a file until the report is written, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from promptdial.bundle import PHRASES_FILE, WORDS_FILE, Bundle
from promptdial.command import Command, word_count
from promptdial.engine import Engine, Generation, GenerationRequest, Sampling
from promptdial.relevance import RelevanceScorer, cosine
from training.evaluation.plan import Case

log = logging.getLogger(__name__)

ROWS = 16  # decoded at a time
EMBEDDED = 500  # texts at a time
LOG_EVERY_S = 15.0

Candidates = list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model gave for a request: the most relevant candidate, measured."""

    case: Case
    command: Command  # after clamping
    text: str
    relevance: float
    words: int

    def to_json(self) -> dict[str, Any]:
        """For `answers.jsonl`."""
        case, subject = self.case, self.case.subject
        return {
            "purpose": case.purpose, "task": subject.task, "modality": subject.modality, "input": subject.input,
            "target_relevance": case.relevance, "target_length": case.length, "seed": case.seed, "n": case.n,
            "command_relevance": self.command.relevance, "command_length": self.command.length,
            "text": self.text, "relevance": round(self.relevance, 4), "words": self.words,
        }  # fmt: skip


def answer(
    bundle: Bundle, cases: Sequence[Case], scorer: RelevanceScorer, threads: int, kept: Path
) -> list[Answer]:
    """Generate and score every case, in order."""
    commands = [case.command(bundle) for case in cases]
    candidates = generate(bundle, cases, commands, threads, kept)
    inputs = [case.subject.input for case, texts in zip(cases, candidates, strict=True) for _ in texts]
    relevance = iter(score(scorer, inputs, [text for texts in candidates for text in texts], threads))
    answers = []
    for case, command, texts in zip(cases, commands, candidates, strict=True):
        value, text = max(((next(relevance), text) for text in texts), key=lambda pair: pair[0])
        answers.append(Answer(case, command, text, value, word_count(text)))
    return answers


def generate(
    bundle: Bundle, cases: Sequence[Case], commands: Sequence[Command], threads: int, kept: Path
) -> list[Candidates]:
    """The candidates of every case; those in the file `kept` are not generated again."""
    tokenizer, sampling = bundle.tokenizer(), Sampling(**bundle.sampling)
    requests = [
        GenerationRequest(
            prompt=tuple(tokenizer.prompt(command, case.subject.input)),
            n=case.n,
            max_tokens=bundle.limits.max_tokens,
            sampling=sampling,
            seed=case.sampling_seed,
            words=command.length,
        )
        for case, command in zip(cases, commands, strict=True)
    ]
    names = (bundle.decoder_path.relative_to(bundle.path).as_posix(), WORDS_FILE, PHRASES_FILE)
    files = " ".join(bundle.files[name].sha256 for name in names if name in bundle.files)
    keys = [_key(files, request) for request in requests]
    known = _read(kept)
    todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
    log.info("%s: %d requests, %d of them generated before", bundle.name, len(cases), len(cases) - len(todo))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (
        kept.open("a", encoding="utf-8", buffering=1) as file,
        _running(bundle, threads, len(todo)) as engines,
    ):
        file.write("\n")  # after what a kill may have cut off
        turns = zip(cycle(engines), todo.items(), strict=False)
        pending = [(key, engine.submit(request)) for engine, (key, request) in turns]
        for key, generation in _with_progress(pending):
            texts = [tokenizer.decode(tokens) for tokens, _ in generation.result().candidates]
            _append(file, key, texts)
            known[key] = texts
    return [known[key] for key in keys]


def score(
    scorer: RelevanceScorer, inputs: Sequence[str], outputs: Sequence[str], threads: int
) -> list[float]:
    """Relevance of each output, every text embedded once; ``scorer`` should have one thread of its own."""
    texts = sorted({*inputs, *outputs}, key=lambda text: (len(text), text))  # alike in length: large batches
    row = {text: index for index, text in enumerate(texts)}
    chunks = [texts[start : start + EMBEDDED] for start in range(0, len(texts), EMBEDDED)]
    embeddings = []
    with ThreadPoolExecutor(threads) as pool:
        for number, found in enumerate(pool.map(scorer.embed, chunks), start=1):
            embeddings.append(found)
            if len(chunks) > 1 and (number % 4 == 0 or number == len(chunks)):
                log.info("%d of %d texts embedded", min(number * EMBEDDED, len(texts)), len(texts))
    every = np.concatenate(embeddings)
    return cosine(every[[row[text] for text in inputs]], every[[row[text] for text in outputs]])


@contextmanager
def _running(bundle: Bundle, threads: int, requests: int) -> Iterator[list[Engine]]:
    """One engine per thread: two of one thread do more than one of two, and don't wait for each other."""
    engines = [
        Engine.from_bundle(bundle, threads=1, slots=ROWS, queue_limit=requests + 1) for _ in range(threads)
    ]
    try:
        for engine in engines:
            engine.start()
        yield engines
    finally:
        for engine in engines:
            engine.close()


def _with_progress(pending: list[tuple[str, Generation]]) -> Iterator[tuple[str, Generation]]:
    began = said = time.monotonic()
    for number, (key, generation) in enumerate(pending, start=1):
        yield key, generation
        if (now := time.monotonic()) - said > LOG_EVERY_S or number == len(pending):
            left = (now - began) / number * (len(pending) - number)
            log.info("%d of %d generated, %.0f s left", number, len(pending), left)
            said = now


def _key(files: str, request: GenerationRequest) -> str:
    """Everything that an answer depends on."""
    parts = (
        files,
        request.prompt,
        request.n,
        request.max_tokens,
        request.sampling,
        request.seed,
        request.words,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _append(file: TextIO, key: str, texts: Candidates) -> None:
    file.write(json.dumps({"key": key, "texts": texts}) + "\n")


def _read(path: Path) -> dict[str, Candidates]:
    """What was kept; a line that was cut off by a kill is passed over."""
    known: dict[str, Candidates] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            known[row["key"]] = row["texts"]
    return known
