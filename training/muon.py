"""Muon for the matrices of the blocks, AdamW for all other weights, as one optimizer.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
orthogonal one, found by a few Newton-Schulz steps, so that all directions of a matrix are learnt at one speed. Updates
are scaled to the size that AdamW's have (Liu et al., arXiv 2502.16982), so that both take the same rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from training.precision import has_bf16

STEPS = 5  # of Newton-Schulz
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAMW_SIZE = 0.2  # root mean square of AdamW's updates


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices of (count, rows, columns), roughly, in bf16 where the machine has it."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.transpose(1, 2)
    x = x.bfloat16() if has_bf16() else x.float()
    x = torch.nn.functional.normalize(x.flatten(1), dim=1, eps=1e-7).view_as(x)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * (square @ square)) @ x
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """Groups with `muon` true hold block matrices stored as (in, out); fused ones are split into square parts."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": 0.95,
            "betas": (0.9, 0.98),
            "muon": False,
            "fused": True,  # torch then puts the loaded counts of steps beside the weights
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            (self._muon if group["muon"] else self._adamw)(group, weights)

    def _muon(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            wanted = weight.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
            for target, update in zip(_parts(weight), _parts(wanted), strict=True):
                flipped = target.shape[0] > target.shape[1]  # tall and wide ones of a shape are done together
                pair = (target.T, update.T) if flipped else (target, update)
                shapes[tuple(pair[0].shape)].append(pair)  # type: ignore[index]
        for shape, pairs in shapes.items():
            scale = ADAMW_SIZE * max(shape) ** 0.5
            updates = orthogonal(torch.stack([update for _, update in pairs]))
            for (target, _), update in zip(pairs, updates, strict=True):
                target.mul_(1 - group["lr"] * group["weight_decay"])
                target.add_(update.to(target.dtype), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        if not weights:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        torch._fused_adamw_(  # what AdamW(fused=True) calls
            weights,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"].add_(1) for state in states],
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


def _parts(matrix: Tensor) -> tuple[Tensor, ...]:
    """Query, key and value of a fused (width, 3 * width) matrix apart; any other as it is."""
    return matrix.chunk(3, dim=1) if matrix.shape[1] == 3 * matrix.shape[0] else (matrix,)


def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Block matrices for Muon; embeddings with decay; biases and norms without."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and ".h." in name]
    tables = [weight for name, weight in named if weight.ndim == 2 and ".h." not in name]
    rest = [weight for _, weight in named if weight.ndim != 2]
    return [
        {"params": matrices, "muon": True},
        {"params": tables},
        {"params": rest, "weight_decay": 0.0},
    ]
