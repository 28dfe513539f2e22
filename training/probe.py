"""A look at samples while training: does the output hold the input, and does it follow the command?

The loss alone hides both. Sampled, n = 1, on a few held-out `expand` inputs, at a high and a low relevance and
at two lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from promptdial.command import Command, word_count
from promptdial.relevance import RelevanceScorer
from promptdial.tokenizer import PromptTokenizer
from training.precision import has_bf16
from training.recipe import SamplingRecipe

HIGH, LOW = 0.85, 0.2
LENGTHS = (15, 50)


@dataclass(frozen=True)
class ProbeResult:
    """Mean relevance at the high and low target, mean words at the two length targets, and some samples."""

    high: float
    low: float
    words: tuple[float, ...]
    samples: list[tuple[str, str]]

    def __str__(self) -> str:
        words = ", ".join(f"{wanted}->{got:.0f}" for wanted, got in zip(LENGTHS, self.words, strict=True))
        return f"relevance {HIGH}->{self.high:.3f} {LOW}->{self.low:.3f}; words {words}"

    def curves(self) -> dict[str, float]:
        """The figures by name, for plots over steps."""
        words = {f"probe/words_at_{wanted}": got for wanted, got in zip(LENGTHS, self.words, strict=True)}
        return {f"probe/relevance_at_{HIGH}": self.high, f"probe/relevance_at_{LOW}": self.low, **words}


class Probe:
    """Samples and scores the same commands over the same inputs each time it is called."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, str]],
        tokenizer: PromptTokenizer,
        scorer: RelevanceScorer,
        sampling: SamplingRecipe,
    ) -> None:
        """`inputs`: (modality, input) of `expand` rows that are not trained on."""
        self._inputs = inputs
        self._tokenizer = tokenizer
        self._scorer = scorer
        self._sampling = sampling

    def __call__(self, model: GPT2LMHeadModel) -> ProbeResult:
        """Sample and score. The model is left in training mode."""
        texts = [text for _, text in self._inputs]
        outputs, relevance = {}, {}
        for name, target in (("high", HIGH), ("low", LOW)):
            for length in LENGTHS:
                commands = [Command("expand", modality, target, length) for modality, _ in self._inputs]
                outputs[name, length] = sample(model, self._tokenizer, commands, texts, self._sampling)
                relevance[name, length] = self._scorer.score(texts, outputs[name, length])
        model.train()
        return ProbeResult(
            high=float(np.mean([relevance["high", length] for length in LENGTHS])),
            low=float(np.mean([relevance["low", length] for length in LENGTHS])),
            words=tuple(
                float(np.mean([word_count(t) for t in outputs["high", length]])) for length in LENGTHS
            ),
            samples=list(zip(texts, outputs["high", LENGTHS[-1]], strict=True))[:6],
        )


@torch.no_grad()
def sample(
    model: GPT2LMHeadModel,
    tokenizer: PromptTokenizer,
    commands: Sequence[Command],
    inputs: Sequence[str],
    sampling: SamplingRecipe,
    max_tokens: int = 120,
) -> list[str]:
    """One output per command, sampled in one batch, left-padded."""
    prompts = [tokenizer.prompt(command, text) for command, text in zip(commands, inputs, strict=True)]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), tokenizer.pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    model.eval()
    device = model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16()):
        generated = model.generate(
            ids.to(device), attention_mask=mask.to(device), max_new_tokens=max_tokens, do_sample=True,
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p,
            eos_token_id=tokenizer.end_id, pad_token_id=tokenizer.pad_id,
        )  # fmt: skip
    return [tokenizer.decode(row[width:].tolist()) for row in generated]


def probe_inputs(rows: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Every k-th of the distinct (modality, input) rows."""
    distinct = sorted(set(rows))
    return distinct[:: max(1, len(distinct) // count)][:count]
