"""The checkpoint that all engines run: a GPT-2 with random weights, as `python -m export` reads it.

Control tokens have a zero embedding. Their logit is then exactly 0 and never the largest of thousands, so
that no engine ends a sequence early or writes a token that another one forbids, whatever its settings.
``reference.json`` holds the first tokens that PyTorch chooses in fp32, by which an engine that runs another
model than it was given is found out.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from loadtest.peers.workload import Shape, prompts
from promptdial.command import DEFAULT_FORMAT
from promptdial.tasks import TASK_INFO
from promptdial.tokenizer import PromptTokenizer

REFERENCE = "reference.json"
REFERENCE_PROMPTS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_checkpoint(folder: Path, shape: Shape, prompt_tokens: int, seed: int = 0) -> None:
    """Write the weights, a tokenizer of random words with the wanted number of entries, and the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = random_tokenizer(shape.vocabulary, seed)
    specials = sorted(tokenizer.special_ids)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        n_ctx=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=tokenizer.out_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight[specials] = 0.0
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    (folder / "promptdial.json").write_text(json.dumps(_details(shape)), encoding="utf-8")
    asked = prompts(REFERENCE_PROMPTS, prompt_tokens, shape.vocabulary, len(specials))
    with torch.no_grad():
        first = model(torch.tensor(asked)).logits[:, -1].argmax(-1).tolist()
    reference = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": shape.vocabulary,
        "control_tokens": len(specials),
        "first_tokens": first,
    }
    (folder / REFERENCE).write_text(json.dumps(reference), encoding="utf-8")


def random_tokenizer(vocabulary: int, seed: int = 0) -> PromptTokenizer:
    """A byte-level BPE learnt from random words, enough of them for ``vocabulary`` entries."""
    draw = random.Random(seed)
    words = ("".join(draw.choice(LETTERS) for _ in range(6)) for _ in range(vocabulary * 5 // 2))
    tokenizer = PromptTokenizer.train(words, vocabulary)
    assert tokenizer.vocabulary == vocabulary, "too few words for so many entries"
    return tokenizer


def _details(shape: Shape) -> dict[str, object]:
    """What training would have written into ``promptdial.json``."""
    cells = [{"length": 40, "p05": 0.1, "p50": 0.5, "p90": 0.8, "p95": 0.85, "count": 60}]
    support = {"length": {"p05": 3, "p50": 12, "p95": 90, "count": 100}, "cells": cells}
    source = {"source": "random weights", "licence": "Apache-2.0", "rows": 0, "attribution": "none"}
    return {
        "command": DEFAULT_FORMAT.to_json(),
        "tasks": {name: task.to_json() for name, task in TASK_INFO.items()},
        "support": {name: support for name in TASK_INFO},
        "calibration": {},
        "limits": {"max_input_tokens": shape.positions // 4, "max_tokens": shape.positions // 4},
        "sampling": {},
        "data": [source],
        "training": {"recipe": "random weights for comparing engines", "steps": 0},
        "metrics": {},
        "validation": [],
    }
