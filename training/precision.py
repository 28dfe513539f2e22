"""Whether this machine computes in bf16: a CPU without the instructions emulates it, 75 times slower than fp32."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_bf16() -> bool:
    """Whether matrix products in bf16 run on hardware here, on the GPU where there is one, else on the CPU."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(
        capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )  # the last one: Arm
