"""How a GPT-2 starts when it is trained from little text.

A model that is to carry its input into its output has to learn to look back first, and random weights take millions
of tokens for it. Three starts shorten that, none of which changes the architecture:

- `embeddings = "scorer"`: the tokens that are whole words start from the relevance scorer's embedding of that word,
  so that the geometry of the reward is there from the first step.
- `positions = "sinusoidal"`: position embeddings as in Vaswani et al. 2017, in which looking one token back is a
  rotation.
- `attention = "copy"`: query and key weights that begin near a multiple of the identity, so that a token attends to
  its like, and value-output products near the identity, so that what is attended to is predicted: after "Mimetic
  Initialization of Self-Attention Layers", Trockman and Kolter, arXiv 2305.09828.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from promptdial.relevance import RelevanceScorer
from promptdial.tokenizer import PromptTokenizer
from training.errors import TrainingError
from training.recipe import InitRecipe

EMBEDDING_STD = 0.02


def initialize(
    model: GPT2LMHeadModel,
    recipe: InitRecipe,
    tokenizer: PromptTokenizer,
    scorer: RelevanceScorer,
) -> None:
    """Set the starting weights of a fresh model in place."""
    if recipe.positions == "sinusoidal":
        weight = model.transformer.wpe.weight
        weight.data.copy_(sinusoids(*weight.shape) * EMBEDDING_STD)
    smooth_commands(model, tokenizer)
    if recipe.embeddings == "scorer":
        start_from_words(model, tokenizer, scorer)
    if recipe.attention == "copy":
        for number, block in enumerate(model.transformer.h):
            copy_heads(block.attn, number / len(model.transformer.h))


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Sine and cosine of positions (positions, width), wavelengths 2 pi to 1000 * 2 pi."""
    rate = torch.exp(-math.log(1000.0) * torch.arange(width // 2) / (width // 2))
    angle = torch.arange(positions)[:, None] * rate[None, :]
    return torch.cat((angle.sin(), angle.cos()), dim=1)


def smooth_commands(model: GPT2LMHeadModel, tokenizer: PromptTokenizer) -> None:
    """Bucket tokens start on a line between two random points, so that neighbouring buckets start alike."""
    weight = model.transformer.wte.weight.data
    format = tokenizer.format
    for name, centres in (("rel", format.relevance_buckets), ("len", format.length_buckets)):
        ids = [tokenizer.token_id(f"<{name}:{centre}>") for centre in centres]
        low, high = torch.randn(2, weight.shape[1]) * EMBEDDING_STD * 2
        part = torch.linspace(0, 1, len(ids))[:, None]
        weight[ids] = (
            low * (1 - part) + high * part + torch.randn(len(ids), weight.shape[1]) * EMBEDDING_STD * 0.3
        )


def start_from_words(model: GPT2LMHeadModel, tokenizer: PromptTokenizer, scorer: RelevanceScorer) -> None:
    """Tokens that are a whole word take the scorer's embedding of it, centred and scaled to the usual size."""
    weight = model.transformer.wte.weight.data
    if scorer.width != weight.shape[1]:
        raise TrainingError(
            f"init.embeddings = 'scorer' needs model.width {scorer.width}, got {weight.shape[1]}"
        )
    ids = tokenizer.word_ids()
    rows = scorer.embed([tokenizer.decode([token_id]) for token_id in ids])
    rows = rows - rows.mean(axis=0)
    rows *= EMBEDDING_STD / rows.std()
    weight[ids] = torch.from_numpy(rows) + torch.randn(rows.shape) * EMBEDDING_STD * 0.1


def copy_heads(attention: Any, depth: float) -> None:
    """Set queries ~ keys and value-output ~ identity in half of a layer's heads; `depth` in 0-1 scales the second.

    c_attn.weight is (width, 3 * width), input first; c_proj.weight (width, width).
    """
    fused, out = attention.c_attn.weight.data, attention.c_proj.weight.data
    width, heads = out.shape[0], attention.num_heads
    size = width // heads
    for head in range(0, heads, 2):
        basis = torch.linalg.qr(torch.randn(width, size)).Q
        columns = slice(head * size, (head + 1) * size)
        fused[:, :width][:, columns] += basis * 0.5
        fused[:, width : 2 * width][:, columns] += basis * 0.5
        basis = torch.linalg.qr(torch.randn(width, size)).Q
        fused[:, 2 * width :][:, columns] += basis * 0.5 * (0.5 + depth)
        out[columns, :] += basis.T * 0.5 * (0.5 + depth)
