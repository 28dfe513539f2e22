"""Constant scales for what flows through the graph: measured on the checkpoint's validation rows.

An int8 product needs its activations as bytes. Scales computed per batch would make a row depend on its
neighbours; computed per row they cost three more passes over the activations. Constant ones are the fastest
and keep rows apart, so they are calibrated here, by the fp32 model: for each matrix the range of its inputs
that loses least when it is cut into 255 steps, and for each channel of keys and values the largest size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from export.quantization import LEAST_SCALE, STEPS, Floats

SAMPLE = 200_000  # values kept of each tensor
SHRINKS = np.linspace(1.0, 0.4, 25)  # of the range: clipping what is rare sharpens what is common
MARGIN = 1.1  # keys and values outside what was seen would be clipped
Row = tuple[Sequence[int], Sequence[int]]  # prompt, target


@dataclass(frozen=True)
class Steps:
    """An affine mapping to bytes: value = (byte - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Calibration:
    """Steps of each matrix's inputs, by the matrix's name; key and value scales per layer, (heads * size)."""

    inputs: dict[str, Steps]
    keys: list[Floats]
    values: list[Floats]


def calibrate(model: GPT2LMHeadModel, rows: Sequence[Row]) -> Calibration:
    """Run the rows through the model, watching every matrix. Raises ValueError without rows."""
    if not rows:
        raise ValueError("calibration needs rows")
    seen: dict[str, list[Floats]] = {}
    projected: list[list[Floats]] = [[] for _ in model.transformer.h]
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.setdefault(name, []).append(_numbers(inputs[0]))

        handles.append(module.register_forward_pre_hook(hook))

    for index, block in enumerate(model.transformer.h):
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            watch(f"h.{index}.{part}", block.get_submodule(part))
        projection = block.get_submodule("attn.c_attn")
        handles.append(projection.register_forward_hook(_keep(projected[index])))
    watch("wte", model.get_submodule("lm_head"))
    try:
        with torch.no_grad():
            for prompt, target in rows:
                model(torch.tensor([[*prompt, *target]]))
    finally:
        for handle in handles:
            handle.remove()
    parts = [np.split(np.concatenate(each), 3, axis=1) for each in projected]  # query, key, value
    return Calibration(
        {name: best_steps(np.concatenate([each.ravel() for each in found])) for name, found in seen.items()},
        [_channel_scales(keys) for _, keys, _ in parts],
        [_channel_scales(values) for _, _, values in parts],
    )


def _numbers(values: torch.Tensor) -> Floats:
    return np.asarray(values.reshape(-1, values.shape[-1]).float().numpy(), np.float32)


def _keep(store: list[Floats]) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def hook(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        store.append(_numbers(output))

    return hook


def _channel_scales(values: Floats) -> Floats:
    return np.asarray(np.maximum(np.abs(values).max(axis=0) * MARGIN / STEPS, LEAST_SCALE), np.float32)


def best_steps(values: Floats) -> Steps:
    """The steps with the least mean squared error on ``values`` (a sample of them, if they are many)."""
    if len(values) > SAMPLE:
        kept = np.random.default_rng(0).choice(len(values), SAMPLE, replace=False)
        values = np.concatenate([values[kept], [values.min(), values.max()]])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [_steps(low * shrink, high * shrink) for shrink in SHRINKS]
    return min(tried, key=lambda steps: float(np.square(round_trip(values, steps) - values).mean()))


def _steps(low: float, high: float) -> Steps:
    scale = max((high - low) / 255, LEAST_SCALE)
    return Steps(scale, round(-low / scale))


def round_trip(values: Floats, steps: Steps) -> Floats:
    """Values as the graph's products see them."""
    whole = np.clip(np.round(values / steps.scale) + steps.zero_point, 0, 255)
    return np.asarray((whole - steps.zero_point) * steps.scale, np.float32)
