"""The loss that never holds all logits, against the one of torch that does."""

from __future__ import annotations

import pytest
import torch

from training import loss

IGNORED = -100


@pytest.mark.parametrize("positions", [1, 300, loss.PIECE, loss.PIECE + 7])
def test_sum_and_gradients_are_those_of_cross_entropy(positions: int) -> None:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, 24, generator=generator, requires_grad=True)
    weight = torch.randn(50, 24, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (positions,), generator=generator)
    targets[1::3] = IGNORED
    expected = torch.nn.functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum"
    )
    gradients = torch.autograd.grad(expected / 7, (hidden, weight))
    found = loss.summed_cross_entropy(hidden, weight, targets, IGNORED)
    assert torch.allclose(found, expected, rtol=1e-5)
    for own, other in zip(torch.autograd.grad(found / 7, (hidden, weight)), gradients, strict=True):
        assert torch.allclose(own, other, atol=1e-5)


def test_gains_multiply_each_positions_term() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = loss.PIECE + 7
    hidden = torch.randn(positions, 24, generator=generator, requires_grad=True)
    weight = torch.randn(50, 24, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (positions,), generator=generator)
    targets[1::3] = IGNORED
    gains = torch.randn(positions, generator=generator)  # half of them negative
    terms = torch.nn.functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=IGNORED, reduction="none"
    )
    expected = (terms * gains).sum()
    gradients = torch.autograd.grad(expected, (hidden, weight))
    found = loss.summed_cross_entropy(hidden, weight, targets, IGNORED, gains)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)
    for own, other in zip(torch.autograd.grad(found, (hidden, weight)), gradients, strict=True):
        assert torch.allclose(own, other, atol=1e-4)


def test_under_autocast_products_are_in_its_type() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 24, generator=generator)
    weight = torch.randn(50, 24, generator=generator)
    targets = torch.randint(0, 50, (64,), generator=generator)
    exact = loss.summed_cross_entropy(hidden, weight, targets, IGNORED)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss.summed_cross_entropy(hidden, weight, targets, IGNORED)
    assert rough != exact
    assert torch.allclose(rough, exact, rtol=0.02)
