"""transformers: ``GPT2LMHeadModel.generate`` in fp32 or bf16, with scaled-dot-product attention, its default."""

from __future__ import annotations

from pathlib import Path

from loadtest.peers.hf_generate import HfRunner
from loadtest.peers.worker import Runner

PACKAGES = ("transformers", "torch")


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Nothing: the checkpoint is what is loaded."""
    model.mkdir(parents=True, exist_ok=True)
    (model / "checkpoint").unlink(missing_ok=True)
    (model / "checkpoint").symlink_to(checkpoint.resolve())


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """The checkpoint in the wanted type."""
    import torch  # noqa: PLC0415
    from transformers import GPT2LMHeadModel  # noqa: PLC0415

    torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    return HfRunner(GPT2LMHeadModel.from_pretrained(model / "checkpoint", dtype=dtype).eval())
