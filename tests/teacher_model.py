"""A tiny chat model with random weights, for servers of the OpenAI protocol that others wrote.

    make_model(FOLDER)                                           # a Llama as Hugging Face stores it
    .venv-peers/llamacpp-server/bin/python tests/teacher_model.py FOLDER FILE.gguf   # the same for llama.cpp

What it writes is noise, which is the point: a filter has to turn all of it down, and every token is counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TEXTS = (
    "A red fox stands in deep snow at the edge of a forest.",
    "Describe it in about 25 words. a bdfan number 17",
    "Its fur is dusted with frost, and pale light falls on the drifts.",
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
END = "<|end|>"
WIDTH, LAYERS, HEADS, POSITIONS = 32, 2, 2, 1024


def make_model(folder: Path) -> Path:
    """Write weights, tokenizer and chat template, and return the folder."""
    import torch  # noqa: PLC0415
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, vocab_size=320, min_frequency=1, show_progress=False)
    trained.add_special_tokens(list(CONTROL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token=END,
        pad_token=END,
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=POSITIONS, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    assert model.generation_config is not None
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    return folder


def write_gguf(folder: Path, path: Path) -> None:
    """The model of a folder as llama.cpp reads it."""
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, LAYERS), (writer.add_context_length, POSITIONS), (writer.add_embedding_length, WIDTH),
        (writer.add_feed_forward_length, 2 * WIDTH), (writer.add_head_count, HEADS), (writer.add_head_count_kv, HEADS),
        (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_dimension_count, WIDTH // HEADS),
    ):  # fmt: skip
        add(value)
    _write_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    for name, weight in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    import gguf  # noqa: PLC0415

    ids = tokenizer["model"]["vocab"] | {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=lambda token: int(ids[token]))
    kinds = [gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in tokens]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(ids[END])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _gguf_name(name: str) -> str:
    """Where llama.cpp looks for a weight of transformers' Llama."""
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}  # fmt: skip
    if name in outer:
        return outer[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    inner = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    return f"blk.{layer}.{inner[part.removesuffix('.weight')]}.weight"


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
