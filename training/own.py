"""Own tasks: described in a file (`prepare --tasks FILE`), taken as found, and kept with the episodes.

The file is TOML with a table per task:

    [packshot]
    description = "A product and its features become the prompt of its catalogue photo."
    input_hint = "The product, then what must be seen of it."
    example = "steel water bottle, brushed, 750 ml"
    modality = "image"                 # of a request that names none; left out, "image"
    modalities = ["image", "video"]    # that rows and requests may name; left out, that one alone

`tasks.json` in an episodes folder tells the later stages which tasks and modalities have rows: they become control
tokens of the tokenizer, and what the service answers to.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptdial.command import DEFAULT_FORMAT, MODALITIES, TASKS, CommandFormat, word_count
from promptdial.tasks import TASK_INFO, Task
from training.episodes import Episode
from training.errors import TrainingError
from training.sources import DISTILLED

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")  # it becomes a token, a label of metrics and a word in requests
TEXTS = ("description", "input_hint", "example")
FILE = "tasks.json"


@dataclass(frozen=True)
class Trained:
    """The commands that episodes were written for, and their tasks' descriptions."""

    format: CommandFormat = DEFAULT_FORMAT
    tasks: Mapping[str, Task] = field(default_factory=lambda: TASK_INFO)


def read(path: Path | None) -> dict[str, Task]:
    """The tasks that a file describes. Raises TrainingError naming file, task and field."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"--tasks {path} can't be read as TOML: {error}") from error
    if not tables:
        raise TrainingError(f"--tasks {path} describes no task: give a table [name] for each")
    return {name: _task(name, table, f"{path}, [{name}]") for name, table in tables.items()}


def _task(name: str, table: Any, where: str) -> Task:
    if not NAME.fullmatch(name) or not isinstance(table, dict):
        raise TrainingError(f"{where}: a task is a table whose name has a-z, 0-9, - and _ alone, 32 at most")
    if name in TASKS:
        raise TrainingError(f"{where}: Promptdial has a task of that name; choose another")
    if unknown := sorted(set(table) - {*TEXTS, "modality", "modalities"}):
        raise TrainingError(f"{where}: unknown field {unknown[0]!r}")
    for name_of in TEXTS:
        if not isinstance(table.get(name_of), str) or not table[name_of].strip():
            raise TrainingError(f"{where}: field {name_of!r} is missing or no text")
    modality = table.get("modality", MODALITIES[0])
    modalities = table.get("modalities", [modality])
    if not isinstance(modalities, list) or modality not in modalities:
        raise TrainingError(f"{where}: modalities must be a list that holds modality {modality!r}")
    for each in modalities:
        if not isinstance(each, str) or not NAME.fullmatch(each):
            raise TrainingError(f"{where}: modality {each!r} must have a-z, 0-9, - and _ alone, 32 at most")
    texts = {each: table[each].strip() for each in TEXTS}
    return Task(name, **texts, modality=modality, modalities=tuple(modalities))


def as_found(rows: Iterable[Mapping[str, Any]]) -> Iterator[Episode]:
    """One episode for each pair of an own task: what a good output of it is, no rule here can know."""
    for row in rows:
        input, output = row["input"].strip(), row["output"].strip()
        origin = "distilled" if row["source"].endswith(DISTILLED) else "real"
        yield Episode(
            *(row["kind"], row["modality"], input, output, origin, "pair", row["source"], row["licence"]),
            key=input,
            words=word_count(output),
        )


def trained_on(episodes: Sequence[Episode], tasks: Mapping[str, Task]) -> Trained:
    """Commands of the tasks and modalities that have episodes; `tasks` are the own ones."""
    known = {**TASK_INFO, **tasks}
    rows = Counter((episode.task, episode.modality) for episode in episodes)
    named = dict.fromkeys((*MODALITIES, *(each for task in tasks.values() for each in task.modalities)))
    modalities = tuple(each for each in named if any(modality == each for _, modality in rows))
    found = {}
    for name, task in known.items():
        counts = {modality: count for (other, modality), count in rows.items() if other == name}
        if counts:
            usual = task.modality if task.modality in modalities else max(counts, key=lambda m: counts[m])
            found[name] = replace(task, modality=usual)
    return Trained(CommandFormat(tasks=tuple(found), modalities=modalities), found)


def write(folder: Path, trained: Trained) -> None:
    """Write `tasks.json` into an episodes folder."""
    tasks = {name: task.to_json() for name, task in trained.tasks.items()}
    data = {"command": trained.format.to_json(), "tasks": tasks}
    (folder / FILE).write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def of_episodes(folder: Path) -> Trained:
    """What `write` wrote; the usual tasks where the folder is older than that. Raises TrainingError."""
    path = folder / FILE
    if not path.is_file():
        return Trained()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tasks = {name: Task.from_json(entry) for name, entry in data["tasks"].items()}
        return Trained(CommandFormat.from_json(data["command"]), tasks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path} is damaged ({error!r}): run `python -m training prepare` again"
        ) from error
