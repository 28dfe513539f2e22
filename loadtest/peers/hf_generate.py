"""`generate` of Hugging Face models, timed: shared by transformers and by Optimum's ONNX Runtime models."""

from __future__ import annotations

import time
from typing import Any

from loadtest.peers.worker import Generated


class HfRunner:
    """Calls ``model.generate`` on equal-length prompts; a stopping criterion that never stops sees each step."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Greedy; ``min_new_tokens`` is not needed, since no end token is configured."""
        import torch  # noqa: PLC0415

        ids = torch.tensor(prompts)
        first: list[float] = []

        def seen(generated: Any, scores: Any, **_: Any) -> Any:
            if not first:
                first.append(time.perf_counter() - started)
            return torch.zeros(len(prompts), dtype=torch.bool)

        config = self._model.generation_config
        config.eos_token_id, config.pad_token_id = None, 0
        with torch.inference_mode():
            started = time.perf_counter()
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                stopping_criteria=[seen],
            )
            total = time.perf_counter() - started
        return Generated(output[:, ids.shape[1] :].tolist(), first[0] if first else None, total)
