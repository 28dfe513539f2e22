"""Cross entropy of hidden states against a vocabulary, without ever holding all logits.

Logits of a whole batch are the largest thing in a training step, and on a CPU a fifth of its time goes into writing
and reading them. Here they come in pieces that stay in the cache, and each piece's gradient is taken while it is there,
as in "Cut Your Losses in Large-Vocabulary Language Models", Wijmans et al., arXiv 2411.09009, and in Liger kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PIECE = 512  # positions


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int, gains: Tensor | None = None
) -> Tensor:
    """Sum over positions of -log softmax(hidden @ weight.T)[target], in nats; a target `ignored` adds nothing.

    hidden: (positions, width). weight: (vocabulary, width). targets: (positions,) of token ids. gains: (positions,), by
    which each position's term is multiplied; a negative one makes its target less likely. Products are in the type of
    autocast where that is on, as those of a linear layer are.
    """
    loss: Tensor = _SummedCrossEntropy.apply(hidden, weight, targets, ignored, gains)  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int, gains: Tensor | None
    ) -> Tensor:
        kind = hidden.device.type
        exact = not torch.is_autocast_enabled(kind)
        dtype = weight.dtype if exact else torch.get_autocast_dtype(kind)
        table = weight.detach().to(dtype)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight)
        loss = hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), PIECE):
                piece = slice(start, start + PIECE)
                states, wanted = hidden[piece].to(dtype), targets[piece]
                rows = (wanted != ignored).nonzero().squeeze(1)
                logits = (states @ table.T).float()
                sums = logits.logsumexp(dim=1, keepdim=True)
                terms = sums[rows, 0] - logits[rows, wanted[rows]]
                loss += (terms if gains is None else terms * gains[piece][rows]).sum()
                if not any(ctx.needs_input_grad):
                    continue
                gradient = logits.sub_(sums).exp_()
                gradient[rows, wanted[rows]] -= 1.0
                if len(rows) < len(wanted):
                    gradient[wanted == ignored] = 0.0
                if gains is not None:
                    gradient *= gains[piece, None]
                small = gradient.to(dtype)
                of_hidden[piece] = small @ table
                of_weight += small.T @ states
        ctx.save_for_backward(of_hidden, of_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * gradients[0], of_weight * gradients[0], None, None, None
