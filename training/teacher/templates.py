"""What a teacher is asked: one file per task and modality in `tasks/`, with a system message and worked examples.

An example's answer is written long and cut at a sentence end, so that one set of examples shows every length. The
file's hash goes into every row that came of it.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdial.command import MODALITIES, TASKS, word_count
from training import rules
from training.errors import TrainingError

FOLDER = Path(__file__).with_name("tasks")


@dataclass(frozen=True, slots=True)
class Example:
    """An input with the answer that is wanted, at full length."""

    input: str
    output: str

    def cut(self, length: int) -> str:
        """The beginning of the answer that comes nearest to `length` words, ending with a sentence."""
        return min(rules.cuts(self.output), key=lambda text: abs(word_count(text) - length))


@dataclass(frozen=True)
class Template:
    """How one task is asked of a teacher. `lengths` gives the share of requests by wanted words."""

    name: str
    task: str
    modality: str
    share: float
    lengths: dict[int, float]
    system: str
    examples: tuple[Example, ...]
    digest: str

    def messages(self, text: str, length: int) -> list[dict[str, str]]:
        """The chat that asks for `text` in about `length` words; all but the last message depend on length alone."""
        chat = [{"role": "system", "content": self.system.format(length=length)}]
        for example in self.examples:
            chat += [
                {"role": "user", "content": example.input},
                {"role": "assistant", "content": example.cut(length)},
            ]
        return [*chat, {"role": "user", "content": text}]


def load_all(folder: Path = FOLDER) -> list[Template]:
    """Every template of a folder, by name. Raises TrainingError naming a file that can't be used."""
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise TrainingError(f"{folder} holds no template (*.toml)")
    return [load(path) for path in paths]


def load(path: Path) -> Template:
    """One template. Raises TrainingError naming the file and what is wrong with it."""
    content = path.read_bytes()
    try:
        data = tomllib.loads(content.decode())
        template = Template(
            path.stem,
            data["task"],
            data["modality"],
            float(data["share"]),
            {int(length): float(share) for length, share in data["lengths"].items()},
            rules.clean(data["system"]),
            _examples(data["examples"]),
            hashlib.sha256(content).hexdigest()[:12],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is no task template: {error!r}") from error
    if template.task not in TASKS or template.modality not in MODALITIES:
        raise TrainingError(f"{path}: {template.task!r} of {template.modality!r} is no task and modality")
    if template.share < 0 or min(template.lengths, default=0) < 1 or min(template.lengths.values()) < 0:
        raise TrainingError(f"{path}: shares must not be negative, and lengths at least one word")
    return template


def _examples(given: Sequence[dict[str, Any]]) -> tuple[Example, ...]:
    return tuple(Example(rules.clean(each["input"]), rules.clean(each["output"])) for each in given)
