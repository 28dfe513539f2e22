"""Every answer is paid for, so it is kept: an append-only file, one JSON object a line, keyed by the request's hash.

A line is written with one call, and a killed process loses nothing that the system has taken. A line cut off by a crash
is removed when the file is opened again; its request is then asked anew. One process at a time may hold a journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said to one request, with what it cost and where it came from."""

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    served_model: str
    time: str
    counted: bool = True  # whether the server counted the tokens; otherwise they are estimated
    first_s: float | None = None  # seconds from sending to the first piece of a streamed answer
    total_s: float | None = None  # to its end


FIELDS = tuple(field.name for field in fields(Answer))


def request_key(body: dict[str, Any]) -> str:
    """The hash of everything that is sent: model, messages and sampling."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """The answers of a run, in the order in which they came."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file. Raises TrainingError when another process holds it or a line is damaged."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise TrainingError(f"{path} is in use by another process") from error
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)
        self.answers: dict[str, Answer] = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            answer = _parsed(path, number, line)
            self.answers.setdefault(answer.key, answer)

    def append(self, answer: Answer) -> None:
        """Keep an answer; one that is there already stays as it is."""
        if answer.key in self.answers:
            return
        row = {name: getattr(answer, name) for name in FIELDS}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if (written := os.write(self._file, line)) != len(line):
            raise TrainingError(f"the journal took {written} of {len(line)} bytes: is the disk full?")
        self.answers[answer.key] = answer

    def close(self) -> None:
        """Write through to the disk and let others open the file."""
        os.fsync(self._file)
        os.close(self._file)


def _parsed(path: Path, number: int, line: bytes) -> Answer:
    try:
        row = json.loads(line)
        return Answer(**{name: row[name] for name in FIELDS if name in row})
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}, line {number}: no answer ({error!r}); remove the line") from error
