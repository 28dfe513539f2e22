"""OpenVINO GenAI: ``ContinuousBatchingPipeline`` (variant "continuous") and ``LLMPipeline`` ("pipeline").

Both use paged attention with their default u8 KV cache and dynamic quantization of activations. Weights are
compressed by Optimum Intel at its defaults: int8 per channel; int4 in groups of 128, with the embedding, and
the head tied to it, in int8. The continuous pipeline may batch all prompts into one step.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.peers.worker import Generated, Runner

PACKAGES = ("openvino", "openvino-genai", "optimum-intel", "nncf", "torch", "transformers")
CACHE_GB = 1
STEP_TOKENS = 2048  # most tokens of one step: 16 prompts of 48 at once


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Write the model and its tokenizer as OpenVINO IR."""
    from optimum.commands.optimum_cli import main  # noqa: PLC0415

    task = ["--task", "text-generation-with-past", "--weight-format", precision]
    sys.argv = ["optimum-cli", "export", "openvino", "--model", str(checkpoint), *task, str(model)]
    main()


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """One of the two pipelines."""
    import openvino_genai as genai  # noqa: PLC0415

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if variant == "pipeline":
        return Pipeline(genai.LLMPipeline(str(model), "CPU", ATTENTION_BACKEND="PA", **options))
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.max_num_batched_tokens = STEP_TOKENS
    return Continuous(genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", options))


def greedy(new_tokens: int) -> Any:
    """Exactly ``new_tokens``, whatever they are."""
    import openvino_genai as genai  # noqa: PLC0415

    config = genai.GenerationConfig()
    config.max_new_tokens = new_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


class Continuous:
    """All requests are added at once; then the pipeline is stepped to the end."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._requests = 0

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Runs the steps in this thread."""
        import openvino as ov  # noqa: PLC0415

        config = greedy(new_tokens)
        tensors = [ov.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        first = None
        started = time.perf_counter()
        handles = []
        for tensor in tensors:
            handles.append(self._pipeline.add_request(self._requests, tensor, config))
            self._requests += 1
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            if first is None and all(handle.can_read() for handle in handles):
                first = time.perf_counter() - started
        total = time.perf_counter() - started
        tokens = [list(handle.read_all()[0].generated_ids) for handle in handles]
        return Generated(tokens, first, total)


class Pipeline:
    """One call for the whole batch; the pipeline's own metrics tell when the first tokens were there."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Prompts have equal lengths."""
        import openvino as ov  # noqa: PLC0415
        import openvino_genai as genai  # noqa: PLC0415

        ids = np.array(prompts, np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = greedy(new_tokens)
        started = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        total = time.perf_counter() - started
        first = result.perf_metrics.get_ttft().mean / 1000
        return Generated([list(row) for row in result.tokens], first, total)
