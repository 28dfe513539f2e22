"""A tiny random checkpoint and its exported bundle, made in seconds, for all tests that need a model.

    from tests.tiny import tiny_bundle, tiny_checkpoint

Both are cached for the test session. The model is random, so its texts are noise; the tokenizer, the
scorer, the graphs and the bundle are the real ones. The weights are scaled up, since a freshly initialized
GPT-2 hardly looks at its input and would choose the same tokens whatever the bug.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from export.bundle import export_bundle
from export.scorer import build_scorer
from promptdial.command import DEFAULT_FORMAT
from promptdial.tasks import TASK_INFO
from promptdial.tokenizer import PromptTokenizer

SENTENCES = (
    "a fox in the snow, soft morning light, pine trees, shallow depth of field",
    "lighthouse, storm, night, waves breaking over the rocks, long exposure",
    "an old bicycle leaning against a brick wall, watercolor painting, warm colors",
    "A weathered wooden boat rests on a pebble beach at dawn. Soft pink light falls on the calm water.",
    "Design a poster for a jazz concert in the park on a summer evening, bold type, brass instruments.",
    "cozy cabin in the mountains, smoke from the chimney, snow on the roof",
    "the camera pans slowly across a busy market street while people talk and laugh",
)
VOCABULARY = 640

torch.set_num_threads(1)  # matrices of 64 x 64: threads would only wait for each other


@functools.cache
def session_folder() -> Path:
    """A temporary folder that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="promptdial-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def make_checkpoint(folder: Path, *, layers: int = 2, heads: int = 2, width: int = 64, seed: int = 0) -> Path:
    """Write a random checkpoint with 256 positions, as training would, and return its folder."""
    tokenizer = PromptTokenizer.train(SENTENCES, VOCABULARY)
    config = GPT2Config(
        vocab_size=tokenizer.vocabulary,
        n_positions=256,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        eos_token_id=tokenizer.end_id,
        bos_token_id=tokenizer.out_id,
        pad_token_id=tokenizer.pad_id,
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter * 5.0 if parameter.dim() > 1 else parameter + 0.1 * torch.randn_like(parameter)
            )
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "promptdial.json").write_text(json.dumps(make_metadata()), encoding="utf-8")
    return folder


def make_metadata() -> dict[str, Any]:
    """What training writes into ``promptdial.json``."""
    cells = [
        {"length": 4, "p05": 0.3, "p50": 0.6, "p90": 0.9, "p95": 0.95, "count": 40},
        {"length": 40, "p05": 0.1, "p50": 0.5, "p90": 0.8, "p95": 0.85, "count": 60},
    ]
    lengths = {"p05": 3, "p50": 12, "p95": 90, "count": 100}
    return {
        "command": DEFAULT_FORMAT.to_json(),
        "tasks": {name: task.to_json() for name, task in TASK_INFO.items()},
        "support": {name: {"length": lengths, "cells": cells} for name in TASK_INFO},
        "calibration": {"expand": [{"target": 0.8, "achieved": 0.2, "p10": 0.1, "p90": 0.3, "count": 50}]},
        "limits": {"max_input_tokens": 120, "max_tokens": 120},
        "sampling": {"temperature": 0.8, "top_p": 0.95, "top_k": 40},
        "data": [
            {
                "source": "tests",
                "licence": "Apache-2.0",
                "rows": 7,
                "by_rule": 2,
                "attribution": "written for these tests",
            }
        ],
        "training": {"recipe": "tiny", "steps": 0},
        "metrics": {"validation_loss": 6.4},
        "validation": [],
    }


@functools.cache
def tiny_checkpoint() -> Path:
    """2 layers of 64, random."""
    return make_checkpoint(session_folder() / "checkpoint")


@functools.cache
def scorer_folder() -> Path:
    """The real scorer, built once."""
    folder = session_folder() / "scorer"
    build_scorer(None, folder)
    return folder


@functools.cache
def tiny_bundle(precision: str = "int8") -> Path:
    """The tiny checkpoint's bundle. Don't change it: copy it with ``shutil.copytree`` to break it."""
    target = session_folder() / f"tiny-{precision}"
    export_bundle(tiny_checkpoint(), target, precision=precision, name="tiny", scorer=scorer_folder())
    return target
