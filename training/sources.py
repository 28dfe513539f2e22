"""The open data: where it is, what it holds, and a clear word when something is missing.

The folder comes from `--data-dir` or `PROMPTDIAL_DATA_DIR`. It holds `pairs.jsonl` (short input, long output, by
teacher), `texts.jsonl` (prompts and captions), `styles.jsonl` (templates with a `{prompt}` slot) and `lists.json`
(word lists). Every row names its source and licence. More pairs, such as those that `distill` has a teacher write, come
from files of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdial.command import MODALITIES, TASKS
from training.errors import TrainingError

FILES = ("pairs.jsonl", "texts.jsonl", "styles.jsonl", "lists.json")
PAIR_FIELDS = ("input", "output", "modality", "kind", "split", "source", "licence")
PAIR_VALUES = {"kind": TASKS, "modality": MODALITIES, "split": ("train", "eval")}

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
    """The rows of the four files, as found."""

    pairs: list[dict[str, Any]]
    texts: list[dict[str, Any]]
    styles: list[dict[str, Any]]
    lists: dict[str, list[str]]


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
            "no data folder: give --data-dir or set PROMPTDIAL_DATA_DIR (README.md, 'Train your own')"
        )
    if not folder.is_dir():
        raise TrainingError(f"data folder {folder} does not exist")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise TrainingError(f"data folder {folder} lacks {', '.join(missing)}")
    return folder


def load(folder: Path, more_pairs: Sequence[Path] = ()) -> OpenData:
    """Read the four files, and `more_pairs` behind the folder's own.

    Raises TrainingError naming the file, and the line of a row that can't be used.
    """
    return OpenData(
        pairs=[row for path in (folder / "pairs.jsonl", *more_pairs) for row in read_pairs(path)],
        texts=read_rows(folder / "texts.jsonl", ("text", "source", "licence")),
        styles=read_rows(folder / "styles.jsonl", ("name", "prompt", "source", "licence")),
        lists=_lists(folder / "lists.json"),
    )


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """The rows of one file of pairs, each usable as it is; otherwise TrainingError with file and line."""
    if not path.is_file():
        raise TrainingError(f"{path} is missing: a file of pairs, one JSON object a line")
    return read_rows(path, PAIR_FIELDS, PAIR_VALUES)


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
        for name, values in (allowed or {}).items():
            if row[name] not in values:
                raise TrainingError(
                    f"{path}, line {number}: {name} is {row[name]!r}, which is none of {', '.join(values)}"
                )
        rows.append((number, row))
    return rows
