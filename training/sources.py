"""The open data: where it is, what it holds, and a clear word when something is missing.

The folder comes from `--data-dir` or `PROMPTDIAL_DATA_DIR`. It holds `pairs.jsonl` (short input, long output, by
teacher), `texts.jsonl` (prompts and captions), `styles.jsonl` (templates with a `{prompt}` slot) and `lists.json`
(word lists). Every row names its source and licence. More pairs, such as those that `distill` has a teacher write or an
engineer brings, come from files of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptdial.command import MODALITIES, TASKS
from promptdial.tasks import TASK_INFO, Task
from training.errors import TrainingError

FILES = ("pairs.jsonl", "texts.jsonl", "styles.jsonl", "lists.json")
PAIR_FIELDS = ("input", "output", "modality", "kind", "split", "source", "licence")
PAIR_VALUES = {"kind": TASKS, "modality": MODALITIES, "split": ("train", "eval")}
DRAWN_SHARE = 0.1  # of more pairs that name no split, for validation

DISTILLED = "-distilled"  # ends the names of sources whose outputs `distill` had a language model write

# The credit that each source's licence asks for, as it goes into model cards.
ATTRIBUTION = {
    "vbench": "VBench prompt suite and its rewritten prompts, Vchitect/VBench",
    "vbench2": "VBench-2.0 prompt suite and its rewritten prompts, Vchitect/VBench",
    "vbench-category": "VBench prompts per category and their rewritten prompts, Vchitect/VBench",
    "opencole": "OpenCOLE, Inoue et al., CyberAgentAILab/OpenCOLE",
    "dpg-bench": "DPG-Bench, Hu et al., TencentQQGYLab/ELLA; short prompts from PartiPrompts, google-research/parti",
    "imageinwords": "ImageInWords, Garg et al., Google, google/imageinwords",
    "unigenbench-train": "UniGenBench training prompts, CodeGoat24/UniGenBench",
    "pickapic": "Pick-a-Pic prompts, Kirstain et al., as distributed with yifan123/flow_grpo",
    "imagereward": "ImageReward prompts, Xu et al., THUDM/ImageReward",
    "t2i-compbench": "T2I-CompBench, Huang et al., Karine-Huang/T2I-CompBench",
    "coco-captions": "COCO Captions, Chen et al., COCO Consortium",
    "conceptual-captions": "Conceptual Captions, Sharma et al., Google LLC",
    "corpora": "Corpora, Darius Kazemi and contributors, dariusk/corpora",
    "clip-interrogator": "CLIP Interrogator word lists, pharmapsychotic/clip-interrogator",
    "rollouts": "written by an earlier checkpoint of the model for inputs from the other sources, chosen by rule",
    "sdxl-prompt-styler": "SDXL Prompt Styler, twri/sdxl_prompt_styler",
    "smollm2-distilled": "Written by SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0)",
}


@dataclass(frozen=True)
class OpenData:
    """The rows of the four files and of more pairs, as found, and the own tasks that more pairs may name."""

    pairs: list[dict[str, Any]]
    texts: list[dict[str, Any]]
    styles: list[dict[str, Any]]
    lists: dict[str, list[str]]
    tasks: Mapping[str, Task] = field(default_factory=dict)


def credit(source: str) -> str:
    """The credit to give for a source: its attribution, the model that wrote it, or its name."""
    written = f"Written by {source.removesuffix(DISTILLED)}" if source.endswith(DISTILLED) else source
    return ATTRIBUTION.get(source, written)


def data_dir(given: Path | None) -> Path:
    """The data folder, from the argument or `PROMPTDIAL_DATA_DIR`. Raises TrainingError saying what is missing."""
    folder = given or (
        Path(os.environ["PROMPTDIAL_DATA_DIR"]) if os.environ.get("PROMPTDIAL_DATA_DIR") else None
    )
    if folder is None:
        raise TrainingError(
            "no data folder: give --data-dir or set PROMPTDIAL_DATA_DIR (README.md, 'Train your own'); "
            "for own pairs alone, --pairs FILE --no-open-data (docs/own-data.md)"
        )
    if not folder.is_dir():
        raise TrainingError(f"data folder {folder} does not exist")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise TrainingError(f"data folder {folder} lacks {', '.join(missing)}")
    return folder


def load(
    folder: Path | None, more_pairs: Sequence[Path] = (), tasks: Mapping[str, Task] | None = None
) -> OpenData:
    """Read the four files, and `more_pairs` behind the folder's own; without a folder, `more_pairs` alone.

    `tasks` are own tasks that `more_pairs` may name. Raises TrainingError naming the file, and the line of a row that
    can't be used.
    """
    own = tasks or {}
    more = [row for path in more_pairs for row in read_pairs(path, own)]
    if folder is None:
        if not more:
            raise TrainingError(
                "--no-open-data leaves nothing to train on: give --pairs FILE, with rows in it"
            )
        return OpenData(more, [], [], {}, own)
    return OpenData(
        pairs=[*read_rows(folder / "pairs.jsonl", PAIR_FIELDS, PAIR_VALUES), *more],
        texts=read_rows(folder / "texts.jsonl", ("text", "source", "licence")),
        styles=read_rows(folder / "styles.jsonl", ("name", "prompt", "source", "licence")),
        lists=_lists(folder / "lists.json"),
        tasks=own,
    )


def read_pairs(path: Path, own: Mapping[str, Task] | None = None) -> list[dict[str, Any]]:
    """The rows of one file of more pairs, completed; otherwise TrainingError with file and line.

    `task` may be called `kind`, as in the open data. Left out, `modality` is the task's own, `split` is drawn, `source`
    is the name of the file, and `licence` says that it wasn't stated.
    """
    if not path.is_file():
        raise TrainingError(f"{path} is missing: a file of pairs, one JSON object a line")
    return [
        _completed(row, own or {}, path, number) for number, row in numbered_rows(path, ("input", "output"))
    ]


def _completed(row: dict[str, Any], own: Mapping[str, Task], path: Path, number: int) -> dict[str, Any]:
    where, named = f"{path}, line {number}", "kind" if "kind" in row else "task"
    known = {**TASK_INFO, **own}
    if named not in row:
        raise TrainingError(f"{where}: field 'task' is missing")
    if row[named] not in tuple(known):
        raise TrainingError(
            f"{where}: {named} is {row[named]!r}, which is none of {', '.join(known)}; "
            f"own tasks are described in a file, --tasks FILE (docs/own-data.md)"
        )
    task = known[row[named]]
    drawn = int.from_bytes(hashlib.sha256(row["input"].encode()).digest()[:4], "big") < DRAWN_SHARE * 2**32
    defaults = {"modality": task.modality, "split": "eval" if drawn else "train", "source": path.stem}
    row = {**defaults, "licence": "not stated", **row, "kind": task.name}
    _refuse_others(row, {"modality": task.modalities, "split": PAIR_VALUES["split"]}, where)
    for name in ("source", "licence"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise TrainingError(f"{where}: field {name!r} is no text")
    return row


def _lists(path: Path) -> dict[str, list[str]]:
    try:
        return {
            name: [str(value) for value in entry["values"]]
            for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f'{path}: not an object of {{"name": {{"values": [...]}}}} ({error!r})'
        ) from error


def read_rows(
    path: Path, required: tuple[str, ...], allowed: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, with all texts that are required. Raises TrainingError with file and line."""
    return [row for _, row in numbered_rows(path, required, allowed)]


def numbered_rows(
    path: Path, required: tuple[str, ...], allowed: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """`read_rows` with the line of each."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise TrainingError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise TrainingError(f"{path}, line {number}: a row must be an object")
        lacking = [name for name in required if not isinstance(row.get(name), str) or not row[name].strip()]
        if lacking:
            raise TrainingError(f"{path}, line {number}: field {lacking[0]!r} is missing or no text")
        _refuse_others(row, allowed or {}, f"{path}, line {number}")
        rows.append((number, row))
    return rows


def _refuse_others(row: Mapping[str, Any], allowed: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise TrainingError for a field that has none of its allowed values."""
    for name, values in allowed.items():
        if row[name] not in values:
            raise TrainingError(f"{where}: {name} is {row[name]!r}, which is none of {', '.join(values)}")
