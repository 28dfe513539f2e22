"""What training hands over: a Hugging Face GPT-2 folder plus ``tokenizer.json`` and ``promptdial.json``.

``promptdial.json`` holds what the bundle needs to know beyond the weights: the command format, tasks,
support, limits, sampling defaults, the words of its rows, data sources, training history, metrics, and validation
rows (prompt ids, target ids) on which the parity of the exported graph is measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from export.graph import EPSILON
from export.quantization import Floats
from promptdial.bundle import TOKENIZER_FILE, Architecture, Limits
from promptdial.command import FRAMING_TOKENS, CommandFormat
from promptdial.engine import Sampling
from promptdial.errors import ExportError
from promptdial.tasks import TASK_INFO
from promptdial.tokenizer import PromptTokenizer

METADATA_FILE = "promptdial.json"
EXAMPLE = "a fox in the snow"  # of a task that nobody described
# What the graph computes; a checkpoint that says otherwise would come out wrong without a word.
EXPECTED_CONFIG = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Checkpoint:
    """A read and checked checkpoint folder."""

    path: Path
    model: GPT2LMHeadModel  # fp32, in eval mode: the reference that parity is measured against
    tokenizer: PromptTokenizer
    architecture: Architecture
    limits: Limits
    metadata: dict[str, Any]  # promptdial.json

    @property
    def format(self) -> CommandFormat:
        """The command format that training used."""
        return self.tokenizer.format

    @property
    def sampling(self) -> Sampling:
        """The defaults that training recorded. Raises ExportError for a field that there isn't."""
        try:
            return Sampling(**self.metadata.get("sampling", {}))
        except TypeError as error:
            raise ExportError(f"{self.path / METADATA_FILE}: sampling can't be read ({error})") from error

    @property
    def words(self) -> list[str]:
        """The words that it was trained on; none if training didn't record them."""
        return str(self.metadata.get("words", "")).split()

    @property
    def forbidden(self) -> list[int]:
        """Ids that are never generated: control tokens but `<end>`, and rows that no token has.

        A model may have more rows than its tokenizer has tokens, where sizes are rounded up.
        """
        special = sorted(self.tokenizer.special_ids - {self.tokenizer.end_id})
        return [*special, *range(self.tokenizer.vocabulary, self.architecture.vocabulary)]

    def example(self, task: str) -> str:
        """An input that a task is made for."""
        tasks = self.metadata.get("tasks", {})
        if task in tasks:
            return str(tasks[task]["example"])
        return TASK_INFO[task].example if task in TASK_INFO else EXAMPLE

    def weights(self) -> dict[str, Floats]:
        """The state dict without ``transformer.`` and without the tied head."""
        state = self.model.state_dict()
        named = {name.removeprefix("transformer."): value.numpy() for name, value in state.items()}
        named.pop("lm_head.weight")
        return {name: np.asarray(value, np.float32) for name, value in named.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. Raises ExportError, which says what is wrong with which file."""
    for name in ("config.json", "model.safetensors", TOKENIZER_FILE, METADATA_FILE):
        if not (path / name).is_file():
            raise ExportError(f"{path} is no checkpoint of `python -m training train`: it has no {name}")
    config = _read_config(path)
    metadata = _read_json(path / METADATA_FILE)
    try:
        command_format = CommandFormat.from_json(metadata["command"])
        tokenizer = PromptTokenizer.load(path / TOKENIZER_FILE, command_format)
    except Exception as error:  # tokenizers raises a bare Exception
        raise ExportError(
            f"{path}: {METADATA_FILE} and {TOKENIZER_FILE} don't fit together: {error!r}"
        ) from error
    if tokenizer.vocabulary > config.vocab_size:
        raise ExportError(
            f"{path}: the tokenizer has {tokenizer.vocabulary} tokens, the model {config.vocab_size}; "
            f"they are not from the same training"
        )
    try:
        model = GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32).eval()
    except Exception as error:
        raise ExportError(
            f"{path / 'model.safetensors'} can't be loaded as GPT2LMHeadModel: {error}"
        ) from error
    limits = _limits(metadata, config.n_positions)
    return Checkpoint(path, model, tokenizer, _architecture(model), limits, metadata)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Readable, in the order given, with a newline at the end."""
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} must hold a JSON object")
    return data


def _read_config(path: Path) -> GPT2Config:
    raw = _read_json(path / "config.json")
    architectures = raw.get("architectures") or []
    if raw.get("model_type") != "gpt2" or (architectures and "GPT2LMHeadModel" not in architectures):
        found = ", ".join(architectures) or repr(raw.get("model_type"))
        raise ExportError(f"{path} holds {found}; only GPT2LMHeadModel can be exported")
    config = GPT2Config.from_pretrained(path)
    for name, expected in EXPECTED_CONFIG.items():
        if (value := getattr(config, name)) != expected:
            raise ExportError(f"{path}: {name} is {value!r}; the decoder graph computes {expected!r}")
    if config.n_embd % config.n_head or (config.n_embd // config.n_head) % 8:
        raise ExportError(
            f"{path}: heads of {config.n_embd}/{config.n_head} numbers; the kernel needs a multiple of 8"
        )
    return config


def _architecture(model: GPT2LMHeadModel) -> Architecture:
    config = model.config
    return Architecture(
        layers=config.n_layer,
        heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        width=config.n_embd,
        vocabulary=config.vocab_size,
        positions=config.n_positions,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _limits(metadata: dict[str, Any], positions: int) -> Limits:
    given = metadata.get("limits") or {}
    half = (positions - FRAMING_TOKENS) // 2
    limits = Limits(int(given.get("max_input_tokens", half)), int(given.get("max_tokens", half)))
    if min(limits.max_input_tokens, limits.max_tokens) < 1:
        raise ExportError(f"limits must be at least 1, got {limits}")
    # The last token that is generated is never read again, so it needs no position.
    needed = FRAMING_TOKENS + limits.max_input_tokens + limits.max_tokens - 1
    if needed > positions:
        raise ExportError(
            f"max_input_tokens {limits.max_input_tokens} and max_tokens {limits.max_tokens} need {needed} "
            f"positions, the model has {positions}: lower them in {METADATA_FILE}"
        )
    return limits
