"""Bundle to checkpoint: the weights out of the decoder's graph, dequantized.

So training can go on from any bundle (``--init``), also from one that was exported without ``checkpoint/``.
From int8 the weights are those that the service runs, each within half a step of what was trained.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import GPT2Config, GPT2LMHeadModel

from export.checkpoint import Checkpoint
from export.quantization import Floats, dequantize_blocks
from promptdial.bundle import Bundle

KEPT = ("command", "tasks", "support", "calibration", "limits", "sampling", "data", "training", "metrics")


def restore_weights(bundle: Bundle) -> dict[str, Floats]:
    """The state dict in fp32 (names without ``transformer.``)."""
    graph = onnx.load_model(str(bundle.decoder_path)).graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights: dict[str, Floats] = {}
    for name, value in values.items():
        plain, _, kind = name.rpartition(".")
        if kind in ("int8", "int4"):
            scales = values[f"{plain}.scales"]
            if kind == "int4":
                weights[plain] = dequantize_blocks(value, scales).T  # GPT-2 keeps (in, out)
            else:
                weights[plain] = value * (scales[:, None] if plain == "wte.weight" else scales)
        elif name.startswith(("h.", "ln_f.", "wte.", "wpe.")) and kind in ("weight", "bias"):
            weights[name] = value.astype(np.float32)
    return weights


def restore_model(bundle: Bundle) -> GPT2LMHeadModel:
    """The trained model in fp32, in eval mode."""
    sizes, tokenizer = bundle.architecture, bundle.tokenizer()
    weights = restore_weights(bundle)
    config = GPT2Config(
        vocab_size=sizes.vocabulary,
        n_positions=sizes.positions,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        n_inner=weights["h.0.mlp.c_fc.weight"].shape[1],
        bos_token_id=tokenizer.out_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    model: GPT2LMHeadModel = GPT2LMHeadModel(config)
    model.eval()
    state = {f"transformer.{name}": torch.tensor(value) for name, value in weights.items()}
    model.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    return model


def restored(bundle: Bundle) -> Checkpoint:
    """The bundle as the checkpoint that it could have been made of, but for validation rows."""
    metadata = {key: bundle.manifest[key] for key in KEPT if key in bundle.manifest}
    metadata["words"] = " ".join(bundle.words())
    return Checkpoint(
        *(bundle.path, restore_model(bundle), bundle.tokenizer()),
        *(bundle.architecture, bundle.limits, metadata),
    )
