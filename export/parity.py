"""Does the exported graph compute what the trained model computes? Measured, and written into the bundle.

* fp32: the engine's greedy tokens must be transformers' on at least 100 prompts: the checkpoint's
  validation rows, filled up with made ones. Always checked, also when int8 is exported: it proves the
  graph, which the precisions share.
* fp16, int8, int4: share of validation tokens whose likeliest successor is fp32's too, mean KL divergence
  and perplexities. Made rows stand in only where a checkpoint brings none. Rows that the scales were
  calibrated on are not measured on.

The record says how many prompts or rows were real and how many made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.quantization import Floats
from promptdial.bundle import Architecture
from promptdial.command import FRAMING_TOKENS, Command
from promptdial.engine import Engine, GenerationRequest, Sampling, available_cpus
from promptdial.engine.cached import cache_dtype
from promptdial.engine.decoder import Decoder, open_session
from promptdial.errors import ExportError

log = logging.getLogger(__name__)

PROMPTS = 120
LEAST_PROMPTS = 100
NEW_TOKENS = 24
ROWS = 300
CALIBRATION_ROWS = 100
TIE = 1e-3  # logits closer than this may swap places by rounding alone
Row = tuple[list[int], list[int]]  # prompt, target


def validation_rows(checkpoint: Checkpoint) -> list[Row]:
    """The checkpoint's own rows that the model has positions for, targets cut to them."""
    positions = checkpoint.architecture.positions
    rows = [(list(prompt), list(target)) for prompt, target in checkpoint.metadata.get("validation", [])]
    rows = [(prompt, target[: positions - len(prompt)]) for prompt, target in rows if len(prompt) < positions]
    return [(prompt, target) for prompt, target in rows if prompt and target]


def calibration_rows(checkpoint: Checkpoint) -> list[Row]:
    """Every fourth validation row, or made ones."""
    real = validation_rows(checkpoint)
    return (real[::4] if len(real) >= LEAST_PROMPTS else made_rows(checkpoint))[:CALIBRATION_ROWS]


def _measured_rows(checkpoint: Checkpoint) -> tuple[list[Row], bool]:
    """Rows that no scale was calibrated on, as far as the checkpoint brings any; and whether it does."""
    real = validation_rows(checkpoint)
    calibrated = 4 if len(real) >= LEAST_PROMPTS else 0
    kept = [row for index, row in enumerate(real) if not calibrated or index % calibrated]
    return (kept or made_rows(checkpoint))[:ROWS], bool(kept)


def made_rows(checkpoint: Checkpoint) -> list[Row]:
    """Prompts from the tasks' examples at varying targets, with the examples as targets; cut to fit."""
    tokenizer, form = checkpoint.tokenizer, checkpoint.format
    room = checkpoint.architecture.positions - NEW_TOKENS
    rows: list[Row] = []
    for index in range(PROMPTS):
        task = form.tasks[index % len(form.tasks)]
        relevance = form.relevance_buckets[index % len(form.relevance_buckets)]
        length = form.length_buckets[index % len(form.length_buckets)]
        command = Command(task, form.modalities[index % len(form.modalities)], relevance, length)
        example = checkpoint.example(task)
        ids = tokenizer.encode(f"{example} {index}")[: max(room - FRAMING_TOKENS, 0)]
        target = [*tokenizer.encode(example), tokenizer.end_id][:NEW_TOKENS]
        rows.append((tokenizer.frame(command, ids), target))
    return rows


def _parity_prompts(checkpoint: Checkpoint) -> tuple[list[list[int]], int]:
    """Prompts with room for the tokens that parity generates, and how many of them are real."""
    longest = checkpoint.architecture.positions - NEW_TOKENS
    real = [prompt for prompt, _ in validation_rows(checkpoint) if len(prompt) <= longest][:PROMPTS]
    made = [prompt for prompt, _ in made_rows(checkpoint) if len(prompt) <= longest]
    prompts = [*real, *made][:PROMPTS]
    if len(prompts) < LEAST_PROMPTS:
        raise ExportError(
            f"{len(prompts)} prompts fit into the model's {checkpoint.architecture.positions} positions with "
            f"{NEW_TOKENS} tokens after them, parity needs {LEAST_PROMPTS}: train with more positions"
        )
    return prompts, len(real)


def greedy_parity(checkpoint: Checkpoint, graph: Path, forbidden: Sequence[int]) -> dict[str, Any]:
    """fp32 graph in the engine against transformers. Raises ExportError where they part."""
    prompts, real = _parity_prompts(checkpoint)
    decoder = Decoder(graph, checkpoint.architecture, threads=available_cpus(), slots=8)
    engine = Engine(decoder, checkpoint.tokenizer.end_id, queue_limit=len(prompts), max_running=8)
    engine.start()
    try:
        greedy = Sampling(temperature=0.0)
        requests = [GenerationRequest(tuple(prompt), 1, NEW_TOKENS, greedy) for prompt in prompts]
        ours = [handle.result(600).candidates[0][0] for handle in [engine.submit(each) for each in requests]]
    finally:
        engine.close()
    ties = sum(
        _ties(checkpoint, prompt, found, forbidden) for prompt, found in zip(prompts, ours, strict=True)
    )
    tokens = sum(len(found) for found in ours)
    log.info("fp32 graph equals transformers on %d prompts, %d tokens (%d ties)", len(prompts), tokens, ties)
    counts = {"prompts": len(prompts), "real_prompts": real, "made_prompts": len(prompts) - real}
    return {**counts, "tokens": tokens, "ties": ties}


def _ties(checkpoint: Checkpoint, prompt: list[int], found: list[int], forbidden: Sequence[int]) -> int:
    """Raise unless transformers, greedy, continues the prompt with the tokens that were found.

    One forward pass tells: they are the greedy ones when each is the likeliest after those
    before it. Returns at how many places rounding chose between two logits that are equal but for it.
    """
    limit = min(NEW_TOKENS, checkpoint.architecture.positions - len(prompt) + 1)
    tokens = found if len(found) == limit else [*found, checkpoint.tokenizer.end_id]
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    logits[:, list(forbidden)] = -torch.inf
    gaps = logits.max(dim=1).values - logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    place = int(gaps.argmax())
    if (gap := float(gaps[place])) > TIE:
        raise ExportError(
            f"the fp32 graph differs from transformers: after {len(prompt) + place} tokens it chose "
            f"{tokens[place]}, transformers {int(logits[place].argmax())}, whose logit is {gap:.4f} higher. "
            f"This is a defect of the export"
        )
    return int((gaps > 0).sum())


def parity_with_fp32(checkpoint: Checkpoint, fp32: Path, other: Path) -> dict[str, Any]:
    """Compare two graphs that were built with ``tail="logits"``, on the targets of the validation rows."""
    rows, real = _measured_rows(checkpoint)
    sessions = [open_session(path, available_cpus()) for path in (fp32, other)]
    agreed = tokens = 0
    divergence = 0.0
    losses = [0.0, 0.0]
    for prompt, target in rows:
        ids = np.array([prompt + target], np.int64)
        places = slice(len(prompt) - 1, ids.shape[1] - 1)
        reference, found = [
            _log_softmax(_logits(session, ids, checkpoint.architecture)[places]) for session in sessions
        ]
        agreed += int((reference.argmax(axis=1) == found.argmax(axis=1)).sum())
        divergence += float((np.exp(reference) * (reference - found)).sum())
        index = np.arange(len(target))
        for which, logs in enumerate((reference, found)):
            losses[which] -= float(logs[index, target].sum())
        tokens += len(target)
    perplexity = [float(np.exp(loss / tokens)) for loss in losses]
    return {
        "rows": len(rows),
        "real_rows": len(rows) if real else 0,
        "made_rows": 0 if real else len(rows),
        "tokens": tokens,
        "top1_agreement": round(agreed / tokens, 5),
        "mean_kl": round(divergence / tokens, 6),
        "perplexity_fp32": round(perplexity[0], 4),
        "perplexity": round(perplexity[1], 4),
    }


def _logits(session: Any, ids: Any, architecture: Architecture) -> Floats:
    """Logits (tokens, vocabulary) of one sequence, uncached."""
    count = ids.shape[1]
    kind = cache_dtype(session)
    cache = np.zeros((1, architecture.heads, count, architecture.head_dim), kind)
    feeds: dict[str, Any] = {
        "input_ids": ids,
        "position_ids": np.arange(count)[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
    }
    for layer in range(architecture.layers):
        feeds[f"past_key_{layer}"] = feeds[f"past_value_{layer}"] = cache
    return np.asarray(session.run(["logits"], feeds)[0][0], np.float32)


def _log_softmax(logits: Floats) -> Any:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
