"""CTranslate2: ``Generator.generate_batch``, int8 weights and activations with fp32 between, greedy.

All prompts go as one batch. A callback that is called for each new token tells the first ones. MKL is left
at its default: forcing it on an AMD CPU is far slower.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from loadtest.peers.worker import Generated, Runner

PACKAGES = ("ctranslate2", "transformers", "torch")


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Read the Hugging Face checkpoint and write CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415

    TransformersConverter(str(checkpoint)).convert(str(model), quantization=precision, force=True)
    # The converter leaves out the token for unknown words, which a byte-level tokenizer doesn't have, and the
    # loader wants a text there.
    config = model / "config.json"
    details = json.loads(config.read_text(encoding="utf-8"))
    details = {
        key: "<pad>" if value is None and key.endswith("_token") else value for key, value in details.items()
    }
    config.write_text(json.dumps(details), encoding="utf-8")


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """One model replica on all threads."""
    import ctranslate2  # noqa: PLC0415

    generator = ctranslate2.Generator(
        str(model), device="cpu", compute_type=precision, inter_threads=1, intra_threads=threads
    )
    return GeneratorRunner(generator, vocabulary(model))


def vocabulary(model: Path) -> list[str]:
    """Tokens in the order of their ids: the generator takes and gives strings."""
    return list(json.loads((model / "vocabulary.json").read_text(encoding="utf-8")))


class GeneratorRunner:
    """One call for the whole batch."""

    def __init__(self, generator: Any, tokens: list[str]) -> None:
        self._generator, self._tokens = generator, tokens

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """``min_length`` keeps the end token away."""
        starts = [[self._tokens[token] for token in prompt] for prompt in prompts]
        waiting = set(range(len(prompts)))
        first: list[float] = []

        def seen(step: Any) -> bool:
            waiting.discard(step.batch_id)
            if not waiting and not first:
                first.append(time.perf_counter() - started)
            return False

        started = time.perf_counter()
        results = self._generator.generate_batch(
            starts,
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=seen,
        )
        total = time.perf_counter() - started
        tokens = [list(result.sequences_ids[0]) for result in results]
        return Generated(tokens, first[0] if first else None, total)
