"""Checkpoint to bundle: build the graphs, measure their parity, write everything, ``bundle.json`` last.

All of it happens in a temporary folder beside the target, which takes the target's place at the end: an
export that fails leaves what was there before.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import torch

from export.calibration import calibrate
from export.card import model_card
from export.checkpoint import EXAMPLE, Checkpoint, read_checkpoint, write_json
from export.graph import PRECISIONS, QUANTIZED, Tail, build_decoder
from export.huggingface import write_folder
from export.parity import calibration_rows, greedy_parity, parity_with_fp32
from export.replacing import replaced
from export.scorer import build_scorer
from export.storage import write_decoder
from promptdial.bundle import (
    CARD_FILE,
    FORMAT_VERSION,
    MANIFEST,
    PHRASES_FILE,
    TOKENIZER_FILE,
    WORDS_FILE,
    Bundle,
    file_hash,
    load_bundle,
)
from promptdial.command import Command
from promptdial.errors import ExportError
from promptdial.relevance import SCORER_FILE, SCORER_TOKENIZER_FILE

log = logging.getLogger(__name__)

# Inputs whose ids would change first if the rendering of commands drifted.
GOLDEN_INPUTS = (
    EXAMPLE,
    "  Größe: 北京, naïve café 🦊\n",
    "<task:tags> <end> <rel:0.975> <pad>",
    "",
)


def export_bundle(
    source: Path,
    target: Path,
    *,
    precision: str = "int8",
    name: str = "small",
    scorer: Path | None = None,
    hf_checkpoint: bool = False,
) -> Bundle:
    """Make a bundle of a checkpoint folder. Raises ExportError; ``target`` is then as it was.

    ``scorer`` is a folder with ``scorer.onnx`` and ``scorer_tokenizer.json`` to copy; left out, it is built.
    ``hf_checkpoint`` adds the weights as fp16 under ``checkpoint/``, for fine-tuning without loss
    (``export.huggingface`` says what that folder is).
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; one of {', '.join(PRECISIONS)}")
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file: name a folder for the bundle")
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise ExportError(f"{target} exists and is no bundle: it will not be overwritten")
    checkpoint = read_checkpoint(source)
    with replaced(target) as folder:
        decoder, parity = _write_decoder(checkpoint, folder, precision)
        shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        _write_scorer(folder, scorer)
        manifest = _manifest(checkpoint, name, decoder, parity)
        (folder / CARD_FILE).write_text(model_card(manifest), encoding="utf-8")
        graphs = [name for key, name in decoder.items() if key != "precision"]
        names = [*graphs, TOKENIZER_FILE, SCORER_FILE, SCORER_TOKENIZER_FILE, CARD_FILE]
        if words := checkpoint.words:
            (folder / WORDS_FILE).write_text("\n".join(words) + "\n", encoding="utf-8")
            names.append(WORDS_FILE)
        if (source / PHRASES_FILE).is_file():
            shutil.copyfile(source / PHRASES_FILE, folder / PHRASES_FILE)
            names.append(PHRASES_FILE)
        manifest["files"] = {each: _file_entry(folder / each) for each in names}
        if hf_checkpoint:
            write_folder(checkpoint, folder / "checkpoint", torch.float16)
        write_json(folder / MANIFEST, manifest)
        load_bundle(folder)
    return load_bundle(target)


def _write_decoder(
    checkpoint: Checkpoint, folder: Path, precision: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the decoder; the names of its files, and its parity."""
    forbidden, weights, architecture = checkpoint.forbidden, checkpoint.weights(), checkpoint.architecture
    steps = calibrate(checkpoint.model, calibration_rows(checkpoint)) if precision in QUANTIZED else None
    with tempfile.TemporaryDirectory() as scratch:

        def write(kind: str, tail: Tail = "top") -> Path:
            path = Path(scratch) / f"{kind}.{tail}.onnx"
            onnx.save_model(build_decoder(weights, architecture, forbidden, kind, tail, steps), str(path))
            return path

        parity: dict[str, Any] = {"fp32": greedy_parity(checkpoint, write("fp32"), forbidden)}
        if precision != "fp32":
            graphs = [write(kind, "logits") for kind in ("fp32", precision)]
            parity[precision] = parity_with_fp32(checkpoint, *graphs)
            log.info("%s against fp32: %s", precision, parity[precision])
    return write_decoder(folder, weights, architecture, forbidden, precision, steps), parity


def _write_scorer(folder: Path, scorer: Path | None) -> None:
    if scorer is None:
        build_scorer(None, folder)
        return
    for name in (SCORER_FILE, SCORER_TOKENIZER_FILE):
        if not (scorer / name).is_file():
            raise ExportError(
                f"{scorer} has no {name}: make it with `python -m export scorer --out {scorer}`"
            )
        shutil.copyfile(scorer / name, folder / name)


def _manifest(
    checkpoint: Checkpoint, name: str, decoder: dict[str, str], parity: dict[str, Any]
) -> dict[str, Any]:
    metadata = checkpoint.metadata
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {},
        "decoder": decoder,
        "architecture": asdict(checkpoint.architecture),
        "command": checkpoint.format.to_json(),
        "tasks": metadata.get("tasks", {}),
        "limits": asdict(checkpoint.limits),
        "sampling": asdict(checkpoint.sampling),
        **{key: metadata.get(key, {}) for key in ("support", "calibration", "metrics")},
        "parity": parity,
        "data": metadata.get("data", []),
        "training": metadata.get("training", {}),
        "notes": str(metadata.get("notes", "")),
        "golden": _golden(checkpoint),
    }


def _golden(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    form = checkpoint.format
    rows: list[dict[str, Any]] = []
    for index, task in enumerate(form.tasks):
        modality = form.modalities[index % len(form.modalities)]
        for text in (checkpoint.example(task), GOLDEN_INPUTS[index % len(GOLDEN_INPUTS)]):
            for relevance, length in ((0.85, 60), (None, None), (0.0, 1)):
                ids = checkpoint.tokenizer.prompt(Command(task, modality, relevance, length), text)
                row = {"task": task, "modality": modality, "relevance": relevance, "length": length}
                rows.append({**row, "input": text, "ids": ids})
    return rows


def update_manifest(target: Path, **fields: Any) -> Bundle:
    """Replace fields of ``bundle.json`` (metrics, calibration…), and rewrite the model card that states them.

    Raises BundleError when the bundle is damaged, ExportError for a field that would break it.
    """
    bundle = load_bundle(target)
    if unknown := sorted(set(fields) - {"metrics", "calibration", "support", "data", "training", "notes"}):
        raise ExportError(f"{', '.join(unknown)} of a bundle can't be changed: export it again")
    with replaced(target) as folder:
        shutil.copytree(target, folder, dirs_exist_ok=True)
        manifest = {**bundle.manifest, **fields}
        (folder / CARD_FILE).write_text(model_card(manifest), encoding="utf-8")
        manifest["files"] = {**manifest["files"], CARD_FILE: _file_entry(folder / CARD_FILE)}
        write_json(folder / MANIFEST, manifest)
        load_bundle(folder)
    return load_bundle(target)


def _file_entry(path: Path) -> dict[str, Any]:
    return {"sha256": file_hash(path), "bytes": path.stat().st_size}
