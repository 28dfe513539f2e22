"""Checkpoints: a Hugging Face GPT-2 folder with the tokenizer and all that export needs, in `promptdial.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from export.checkpoint import EXPECTED_CONFIG
from export.restore import restore_model
from promptdial.bundle import load_bundle
from promptdial.command import DEFAULT_FORMAT, END, OUT, PAD, CommandFormat
from promptdial.tokenizer import PromptTokenizer
from training import own
from training.errors import TrainingError
from training.recipe import ModelRecipe

DETAILS = "promptdial.json"
TOKENIZER = "tokenizer.json"


def fresh(recipe: ModelRecipe, vocabulary: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights."""
    specials = DEFAULT_FORMAT.special_tokens()
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=0.0,  # with it there is no fused attention on GPUs
        bos_token_id=specials.index(OUT),
        eos_token_id=specials.index(END),
        pad_token_id=specials.index(PAD),
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
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "gpt2":
        raise TrainingError(
            f"{folder}/config.json is of a {config.get('model_type')!r} model: only 'gpt2' is supported"
        )
    for name, expected in EXPECTED_CONFIG.items():
        found = getattr(GPT2Config(**config), name)
        if found != expected:
            raise TrainingError(f"{folder}/config.json: {name} is {found!r}, only {expected!r} is supported")
    try:
        model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # safetensors, torch and transformers share no base class
        raise TrainingError(f"the weights in {folder} can't be loaded: {error}") from error
    return model


def set_dropout(model: GPT2LMHeadModel, share: float) -> None:
    """Give a model the dropout of a recipe, whatever it was saved with; none in its attention, as in `fresh`."""
    model.config.resid_pdrop = model.config.embd_pdrop = share
    model.config.attn_pdrop = 0.0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if name.endswith("attn_dropout") else share


def sizes(model: GPT2LMHeadModel, dropout: float) -> ModelRecipe:
    """The sizes that a model really has."""
    config = model.config
    return ModelRecipe(
        config.n_layer, config.n_head, config.n_embd, config.n_positions, config.vocab_size, dropout
    )


def load_tokenizer(path: Path, more: CommandFormat | None = None) -> PromptTokenizer:
    """The tokenizer of a checkpoint or bundle with its own commands; to a foreign one the usual ones are added.

    Tasks and modalities of `more` that it doesn't have are added behind its other tokens.
    """
    tokenizer_path = (path if _is_bare_bundle(path) else folder_of(path)) / TOKENIZER
    if not tokenizer_path.is_file():
        raise TrainingError(
            f"{tokenizer_path} is missing: training needs the tokenizer of the weights it starts from"
        )
    known = read_details(path).get("command")
    format = CommandFormat.from_json(known) if known else more or DEFAULT_FORMAT
    format = format.extended(more) if more else format
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise TrainingError(f"{tokenizer_path} is no tokenizer: {error}") from error
    tokenizer.add_special_tokens([t for t in format.special_tokens() if tokenizer.token_to_id(t) is None])
    return PromptTokenizer(tokenizer, format)


def read_details(path: Path) -> dict[str, Any]:
    """`promptdial.json` of a checkpoint, or the same of a bundle without one; empty for a foreign GPT-2."""
    if _is_bare_bundle(path):
        bundle = load_bundle(path)
        return {**bundle.manifest, "words": " ".join(bundle.words())}
    source = folder_of(path) / DETAILS
    return _read_json(source) if source.is_file() else {}


def read_words(path: Path) -> list[str]:
    """The words that a checkpoint or bundle was trained on; none if that wasn't recorded."""
    return str(read_details(path).get("words", "")).split()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise TrainingError(f"{path} holds no object")
    return data


def fit_vocabulary(model: GPT2LMHeadModel, vocabulary: int) -> None:
    """Grow the embeddings of a model to a tokenizer with added control tokens; new rows start at the mean."""
    if model.config.vocab_size < vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=True)


def write_details(folder: Path, tokenizer: PromptTokenizer, details: dict[str, Any]) -> None:
    """Put tokenizer and, last, `promptdial.json` beside the weights of a checkpoint folder."""
    tokenizer.save(folder / TOKENIZER)
    (folder / DETAILS).write_text(json.dumps(details, indent=1), encoding="utf-8")


def last_whole(run: Path) -> Path | None:
    """The newest checkpoint of a run that was written to the end; a kill while saving leaves a part of one."""
    whole = [folder for folder in run.glob("checkpoint-*") if (folder / DETAILS).is_file()]
    return max(whole, key=lambda folder: int(folder.name.partition("-")[2]), default=None)


def learnt_tokenizer(episodes: Path) -> PromptTokenizer:
    """The tokenizer that `python -m training tokenizer` left beside the episodes."""
    path = episodes / TOKENIZER
    if not path.is_file():
        raise TrainingError(
            f"{path} is missing: run `python -m training tokenizer --episodes {episodes}` first"
        )
    try:
        return PromptTokenizer.load(path, own.of_episodes(episodes).format)
    except ValueError as error:
        raise TrainingError(
            f"{path} doesn't fit the episodes ({error}): run `python -m training tokenizer` again"
        ) from error
