"""Checkpoint -> one with more layers that answers alike: `python -m training deepen BUNDLE --layers 6 --out DIR`.

Each new layer is a copy of the one before it whose two outputs are zero, so that at first it changes nothing: "LLaMA
Pro: Progressive LLaMA with Block Expansion", Wu et al., arXiv 2401.02415. Training then goes on from there with all
that was learnt.
"""

from __future__ import annotations

import argparse
import copy
import logging
import shutil
from typing import Any

from transformers import GPT2LMHeadModel

from training import checkpoint
from training.errors import TrainingError

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """Write a deeper checkpoint; tokenizer, support, sampling and lineage are the start's."""
    if args.out.exists() and args.out.resolve() == args.checkpoint.resolve():
        raise TrainingError(f"{args.out} is what is read: give another --out")
    tokenizer, model = checkpoint.load_tokenizer(args.checkpoint), checkpoint.load_model(args.checkpoint)
    before = model.config.n_layer
    deepen(model, args.layers)
    details = checkpoint.read_details(args.checkpoint)
    if args.out.exists():
        shutil.rmtree(args.out)
    model.save_pretrained(args.out)
    checkpoint.write_details(args.out, tokenizer, details)
    log.info("%d layers became %d; wrote %s", before, args.layers, args.out)


def deepen(model: GPT2LMHeadModel, layers: int) -> None:
    """Spread new layers evenly over a model, in place. Raises TrainingError for fewer layers than it has."""
    blocks: Any = model.transformer.h
    before = len(blocks)
    if layers < before:
        raise TrainingError(f"the model has {before} layers: --layers must be at least that, got {layers}")
    grown = []
    for number in range(layers):
        old = number * before // layers
        is_new = number > 0 and old == (number - 1) * before // layers
        block = copy.deepcopy(blocks[old])
        if is_new:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.data.zero_()
                projection.bias.data.zero_()
        block.attn.layer_idx = number  # whose keys and values the cache holds
        grown.append(block)
    model.transformer.h = type(blocks)(grown)
    model.config.n_layer = layers
