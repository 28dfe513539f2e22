"""llama.cpp through its C API, as `llama-batched-bench` drives it: one ``llama_decode`` for all sequences.

Built for this CPU (`GGML_NATIVE`), with flash attention and weight repacking as llama.cpp chooses them by
itself. All prompts are read in one call; each sequence has a cache of its own (``kv_unified`` off, its
default; variant "unified" shares one). A lone sequence runs in a context for one. Logits of all rows come out; the
largest is found in numpy, which takes microseconds. The quantization is `llama-quantize`'s: Q8_0 is int8 in
blocks of 32, Q4_0 int4 in blocks of 32 with the embedding, tied to the head, in Q6_K.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.peers.worker import Generated, Runner

PACKAGES = ("llama_cpp_python", "gguf", "numpy")
FILE = "model.gguf"
NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTER = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
SEQUENCE_TOKENS = 128  # of context for each sequence: 48 + 64 and a little


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Write the weights as GGUF in fp32, then quantize that file. It holds no tokenizer."""
    import llama_cpp  # noqa: PLC0415

    model.mkdir(parents=True, exist_ok=True)
    whole = model / "fp32.gguf"
    write_gguf(checkpoint, whole)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[
        precision
    ]
    status = llama_cpp.llama_model_quantize(
        str(whole).encode(), str(model / FILE).encode(), ctypes.byref(options)
    )
    whole.unlink()
    if status != 0:
        raise RuntimeError(f"llama_model_quantize gave {status}")


def write_gguf(checkpoint: Path, path: Path) -> None:
    """A GPT-2 state dict under llama.cpp's names; its matrices are (out, in), GPT-2's are (in, out)."""
    import json  # noqa: PLC0415

    import gguf  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, value in load_file(checkpoint / "model.safetensors").items():
        place = name.removeprefix("transformer.")
        turned = value.T if place.startswith("h.") and value.ndim == 2 else value
        writer.add_tensor(gguf_name(place), np.ascontiguousarray(turned, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """``h.3.attn.c_attn.bias`` → ``blk.3.attn_qkv.bias``."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """The quantized model; contexts are made when a number of sequences is first asked for."""
    import llama_cpp  # noqa: PLC0415

    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(
        str(model / FILE).encode(), llama_cpp.llama_model_default_params()
    )
    if not loaded:
        raise RuntimeError(f"llama.cpp can't load {model / FILE}")
    return LlamaRunner(llama_cpp, loaded, threads, unified=variant == "unified")


class LlamaRunner:
    """One context per number of sequences."""

    def __init__(self, llama: Any, model: Any, threads: int, *, unified: bool) -> None:
        self._llama, self._model, self._threads, self._unified = llama, model, threads, unified
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._contexts: dict[int, Any] = {}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Read all prompts in one call, then one token of each sequence per call."""
        rows = len(prompts)
        context = self._context(rows)
        self._llama.llama_memory_clear(self._llama.llama_get_memory(context), True)
        batch = self._llama.llama_batch_init(sum(len(prompt) for prompt in prompts), 0, 1)
        try:
            started = time.perf_counter()
            entries = [
                (token, place, row, place == len(prompt) - 1)
                for row, prompt in enumerate(prompts)
                for place, token in enumerate(prompt)
            ]
            newest = self._decode(context, batch, entries, rows)
            first = time.perf_counter() - started
            tokens = [[token] for token in newest]
            for step in range(new_tokens - 1):
                entries = [(token, len(prompts[row]) + step, row, True) for row, token in enumerate(newest)]
                newest = self._decode(context, batch, entries, rows)
                for row, token in enumerate(newest):
                    tokens[row].append(token)
            return Generated(tokens, first, time.perf_counter() - started)
        finally:
            self._llama.llama_batch_free(batch)

    def _decode(
        self, context: Any, batch: Any, entries: list[tuple[int, int, int, bool]], rows: int
    ) -> list[int]:
        batch.n_tokens = len(entries)
        for index, (token, place, row, wanted) in enumerate(entries):
            batch.token[index] = token
            batch.pos[index] = place
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row
            batch.logits[index] = wanted
        status = self._llama.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        logits = np.ctypeslib.as_array(self._llama.llama_get_logits(context), (rows, self._vocabulary))
        return [int(row.argmax()) for row in logits]

    def _context(self, rows: int) -> Any:
        if rows not in self._contexts:
            options = self._llama.llama_context_default_params()
            options.n_ctx = SEQUENCE_TOKENS * rows
            options.n_batch = options.n_ubatch = SEQUENCE_TOKENS * rows
            options.n_ubatch = min(512, options.n_batch)
            options.n_seq_max = rows
            options.n_threads = options.n_threads_batch = self._threads
            options.kv_unified = self._unified
            context = self._llama.llama_init_from_model(self._model, options)
            if not context:
                raise RuntimeError(f"llama.cpp can't make a context for {rows} sequences")
            self._contexts[rows] = context
        return self._contexts[rows]
