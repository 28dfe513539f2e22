"""Inputs to evaluate on, with their references: validation episodes, or a file of pairs (`--pairs`).

Which inputs are taken is decided by a hash of their text, so that the choice doesn't follow the alphabet and stays the
same when rows are added elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptdial.bundle import Bundle
from promptdial.command import word_count
from training.episodes import Episode
from training.errors import TrainingError
from training.sources import numbered_rows

REFERENCE_METHODS = ("pair", "reused")  # written by a teacher for that very input,
REFERENCE_ORIGINS = ("real", "derived")  # and not by a model that stood in for one
REFERENCED_TASK = "expand"


@dataclass(frozen=True, slots=True)
class Subject:
    """An input of a task and modality, and what a teacher wrote for it (empty where nobody did)."""

    task: str
    modality: str
    input: str
    reference: str = ""

    @property
    def reference_words(self) -> int:
        """Length of the reference."""
        return word_count(self.reference)


def from_episodes(episodes: Sequence[Episode]) -> list[Subject]:
    """One subject per task, modality and input; inputs that were given another's output are left out."""
    return _distinct(
        Subject(row.task, row.modality, row.input, row.output if _is_reference(row) else "")
        for row in episodes
        if row.method != "mismatched"
    )


def _is_reference(row: Episode) -> bool:
    return row.method in REFERENCE_METHODS and row.origin in REFERENCE_ORIGINS


def from_pairs(path: Path, tasks: Sequence[str], modalities: Sequence[str]) -> list[Subject]:
    """Rows of `input`, `output`, `modality` and, unless it is `expand`, `task`. TrainingError names a bad line."""
    if not path.is_file():
        raise TrainingError(f"--pairs {path}: there is no such file")
    rows = numbered_rows(path, ("input", "output", "modality"))
    for number, row in rows:
        for field, known in (("task", tasks), ("modality", modalities)):
            if (value := row.get(field, REFERENCED_TASK)) not in known:
                raise TrainingError(
                    f"{path}, line {number}: {field} {value!r} is unknown to the bundle, it has {', '.join(known)}"
                )
    if not rows:
        raise TrainingError(f"{path} holds no rows")
    return _distinct(
        Subject(row.get("task", REFERENCED_TASK), row["modality"], row["input"], row["output"])
        for _, row in rows
    )


def usable(subjects: Iterable[Subject], bundle: Bundle) -> list[Subject]:
    """The subjects whose task and modality the bundle knows and whose input it can read."""
    known = [
        each for each in subjects if each.task in bundle.tasks and each.modality in bundle.format.modalities
    ]
    tokens = map(len, bundle.tokenizer().encode_batch([each.input for each in known]))
    return [
        each for each, count in zip(known, tokens, strict=True) if count <= bundle.limits.max_input_tokens
    ]


def choose(subjects: Iterable[Subject], count: int, salt: str = "") -> list[Subject]:
    """`count` of the subjects, by the hashes of their inputs; another salt chooses others."""
    return sorted(subjects, key=lambda each: digest(salt, each.modality, each.input))[:count]


def digest(*parts: object) -> int:
    """A number below 2**32 that depends on the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _distinct(subjects: Iterable[Subject]) -> list[Subject]:
    """One subject per input; one with a reference before one without, else by hash."""
    ordered = sorted(subjects, key=lambda each: (not each.reference, digest(each.input, each.reference)))
    return list({(each.task, each.modality, each.input): each for each in reversed(ordered)}.values())[::-1]
