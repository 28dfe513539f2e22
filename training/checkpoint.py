"""Checkpoints: a Hugging Face GPT-2 folder with the tokenizer and all that export needs, in `promptdial.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from export.restore import restore_model
from promptdial.bundle import load_bundle
from promptdial.command import DEFAULT_FORMAT, CommandFormat
from promptdial.tokenizer import PromptTokenizer
from training.errors import TrainingError
from training.recipe import ModelRecipe

DETAILS = "promptdial.json"
TOKENIZER = "tokenizer.json"


def fresh(recipe: ModelRecipe, vocabulary: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=recipe.dropout,
        bos_token_id=DEFAULT_FORMAT.special_tokens().index("<out>"),
        eos_token_id=DEFAULT_FORMAT.special_tokens().index("<end>"),
        pad_token_id=DEFAULT_FORMAT.special_tokens().index("<pad>"),
    )
    return GPT2LMHeadModel(config)


def folder_of(path: Path) -> Path:
    """The checkpoint in a bundle folder, or the folder itself. Raises TrainingError when there is none."""
    for folder in (path / "checkpoint", path):
        if (folder / "config.json").is_file():
            return folder
    raise TrainingError(f"{path} holds neither bundle.json nor config.json: give a bundle or a GPT-2 folder")


def _is_bare_bundle(path: Path) -> bool:
    return (path / "bundle.json").is_file() and not (path / "checkpoint").is_dir()


def load_model(path: Path) -> GPT2LMHeadModel:
    """The GPT-2 of a checkpoint or bundle in fp32; of a bundle without `checkpoint/`, its weights dequantized.

    Raises TrainingError for another architecture.
    """
    if _is_bare_bundle(path):
        return restore_model(load_bundle(path))
    folder = folder_of(path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "gpt2":
        raise TrainingError(
            f"{folder}/config.json is of a {config.get('model_type')!r} model: only 'gpt2' is supported"
        )
    model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    return model


def load_tokenizer(path: Path, format: CommandFormat = DEFAULT_FORMAT) -> PromptTokenizer:
    """The tokenizer of a checkpoint or bundle; control tokens are added to one that has none."""
    tokenizer_path = (path if _is_bare_bundle(path) else folder_of(path)) / TOKENIZER
    if not tokenizer_path.is_file():
        raise TrainingError(
            f"{tokenizer_path} is missing: training needs the tokenizer of the weights it starts from"
        )
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.add_special_tokens([t for t in format.special_tokens() if tokenizer.token_to_id(t) is None])
    return PromptTokenizer(tokenizer, format)


def read_details(path: Path) -> dict[str, Any]:
    """`promptdial.json` of a checkpoint, or `bundle.json`, which holds the same; empty for a foreign GPT-2."""
    source = path / "bundle.json" if _is_bare_bundle(path) else folder_of(path) / DETAILS
    if not source.is_file():
        return {}
    details: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return details


def fit_vocabulary(model: GPT2LMHeadModel, vocabulary: int) -> None:
    """Grow the embeddings of a model to a tokenizer with added control tokens; new rows start at the mean."""
    if model.config.vocab_size < vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=True)


def write_details(folder: Path, tokenizer: PromptTokenizer, details: dict[str, Any]) -> None:
    """Put tokenizer and `promptdial.json` beside the weights of a checkpoint folder."""
    tokenizer.save(folder / TOKENIZER)
    (folder / DETAILS).write_text(json.dumps(details, indent=1), encoding="utf-8")


def learnt_tokenizer(episodes: Path) -> PromptTokenizer:
    """The tokenizer that `python -m training tokenizer` left beside the episodes."""
    path = episodes / TOKENIZER
    if not path.is_file():
        raise TrainingError(
            f"{path} is missing: run `python -m training tokenizer --episodes {episodes}` first"
        )
    return PromptTokenizer.load(path)
