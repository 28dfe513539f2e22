"""The decoder: GPT-2 as one ONNX graph for prefill and decode, with the KV cache updated in place.

Inputs: ``input_ids`` and ``position_ids`` (rows, tokens), ``seqlens_k`` (rows) = tokens in the cache
afterwards - 1, ``total_sequence_length`` (scalar, the longest row), and per layer
``past_key_i``/``past_value_i`` (rows, heads, capacity, head_dim). ``present_*`` has the same shape: the
caller binds both to one buffer, and ``GroupQueryAttention`` writes the new tokens into it and copies
nothing. Outputs: the 64 largest logits of each row's last token and their ids, in falling order. Control
tokens other than ``<end>`` carry a bias of -inf there, so they can never be generated.

fp32 is the reference. int8 stores the matrices as ``MatMulNBits`` does (8 bits, blocks of 128 inputs,
activations quantized per row and block, so that rows of a batch don't touch each other); the tied token
embedding is stored once and read twice, by a gather for the input and by ``MatMulNBits`` for the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from export.onnx_graph import MICROSOFT, GraphWriter, tensor
from export.quantization import ZERO_POINT, Floats, block_size, quantize_blocks
from promptdial.bundle import Architecture
from promptdial.engine import MAX_TOP_K
from promptdial.errors import ExportError

PRECISIONS = ("fp32", "int8")
EPSILON = 1e-5  # GPT-2's layer norms
Tail = Literal["top", "logits"]


def build_decoder(
    weights: dict[str, Floats],
    architecture: Architecture,
    forbidden: Sequence[int],
    precision: str = "int8",
    tail: Tail = "top",
) -> ModelProto:
    """The graph of a state dict (names without ``transformer.``).

    ``forbidden`` ids are never among the top. ``tail="logits"`` gives the logits of all tokens instead,
    without that mask (rows, tokens, vocabulary): parity is measured on it.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; one of {', '.join(PRECISIONS)}")
    width = architecture.width
    if precision == "int8" and block_size(width) is None:
        raise ExportError(f"int8 needs a width that 32 divides, not {width}")
    return _Decoder(weights, architecture, precision).model(forbidden, tail)


class _Decoder:
    def __init__(self, weights: dict[str, Floats], architecture: Architecture, precision: str) -> None:
        self.weights, self.architecture = weights, architecture
        self.int8 = precision == "int8"
        self.graph = GraphWriter()

    def model(self, forbidden: Sequence[int], tail: Tail) -> ModelProto:
        g, a = self.graph, self.architecture
        x = self._embeddings()
        for layer in range(a.layers):
            x = self._layer(layer, x)
        x = self._norm("ln_f", x)
        outputs = self._top(x, forbidden) if tail == "top" else self._logits(x)
        rows: list[int | str] = ["rows", "tokens"]
        cache: list[int | str] = ["rows", a.heads, "capacity", a.head_dim]
        inputs = [
            tensor("input_ids", TensorProto.INT64, rows),
            tensor("position_ids", TensorProto.INT64, rows),
            tensor("seqlens_k", TensorProto.INT32, ["rows"]),
            tensor("total_sequence_length", TensorProto.INT32, []),
        ]
        for layer in range(a.layers):
            for part in ("key", "value"):
                inputs.append(tensor(f"past_{part}_{layer}", TensorProto.FLOAT, cache))
                outputs.append(tensor(f"present_{part}_{layer}", TensorProto.FLOAT, cache))
        return g.model("decoder", inputs, outputs)

    def _embeddings(self) -> str:
        g, a = self.graph, self.architecture
        places = g.constant("wpe.weight", self.weights["wpe.weight"])
        place = g.node("Gather", [places, "position_ids"], "place")
        if not self.int8:
            table = g.constant("wte.weight", self.weights["wte.weight"])
            return g.node("Add", [g.node("Gather", [table, "input_ids"], "token"), place], "embedding")
        table, scales, block = self._blocks("wte.weight", self.weights["wte.weight"])
        whole = g.node("Gather", [table, "input_ids"], "token.u8")  # (rows, tokens, blocks, block)
        whole = g.node("Cast", [whole], "token.float", to=TensorProto.FLOAT)
        whole = g.node(
            "Sub", [whole, g.constant("zero_point", np.array(ZERO_POINT, np.float32))], "token.whole"
        )
        by_row = g.constant("by_row", np.array([-1, a.width // block, 1], np.int64))
        scale = g.node("Gather", [g.node("Reshape", [scales, by_row], "scales"), "input_ids"], "token.scale")
        shape = g.constant("hidden_shape", np.array([0, 0, a.width], np.int64))
        scaled = g.node("Mul", [whole, scale], "token.blocks")
        return g.node("Add", [g.node("Reshape", [scaled, shape], "token"), place], "embedding")

    def _layer(self, layer: int, x: str) -> str:
        g, a = self.graph, self.architecture
        name = f"h.{layer}"
        qkv = self._linear(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", x))
        past, present = (
            [f"past_key_{layer}", f"past_value_{layer}"],
            [f"present_key_{layer}", f"present_value_{layer}"],
        )
        mixed, *_ = g.nodes_out(
            "GroupQueryAttention",
            [qkv, "", "", *past, "seqlens_k", "total_sequence_length"],
            [f"{name}.attn", *present],
            MICROSOFT,
            num_heads=a.heads,
            kv_num_heads=a.heads,
            do_rotary=0,
        )
        # Add and LayerNormalization apart are faster than SkipLayerNormalization on the CPU.
        x = g.node("Add", [x, self._linear(f"{name}.attn.c_proj", mixed)], f"{name}.middle")
        wide = self._linear(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", x))
        wide = g.node("FastGelu", [wide], f"{name}.mlp.gelu", MICROSOFT)
        return g.node("Add", [x, self._linear(f"{name}.mlp.c_proj", wide)], f"{name}.out")

    def _norm(self, name: str, x: str) -> str:
        parts = [
            self.graph.constant(f"{name}.{part}", self.weights[f"{name}.{part}"])
            for part in ("weight", "bias")
        ]
        return self.graph.node("LayerNormalization", [x, *parts], name, epsilon=EPSILON)

    def _linear(self, name: str, x: str) -> str:
        """``x @ weight + bias``; GPT-2 keeps its matrices as (in, out)."""
        g = self.graph
        weight = self.weights[f"{name}.weight"]
        bias = g.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        if self.int8:
            return self._matmul_int8(f"{name}.weight", weight.T, x, bias, name)
        product = g.node("MatMul", [x, g.constant(f"{name}.weight", weight)], f"{name}.product")
        return g.node("Add", [product, bias], name)

    def _matmul_int8(self, name: str, weight: Floats, x: str, bias: str, output: str) -> str:
        table, scales, block = self._blocks(name, weight)  # weight: (out, in)
        sizes = {
            "N": weight.shape[0],
            "K": weight.shape[1],
            "bits": 8,
            "block_size": block,
            "accuracy_level": 4,
        }
        return self.graph.node("MatMulNBits", [x, table, scales, "", "", bias], output, MICROSOFT, **sizes)

    def _blocks(self, name: str, weight: Floats) -> tuple[str, str, int]:
        """Initializers of a quantized (out, in) matrix: bytes, scales, block size."""
        block = block_size(weight.shape[1])
        if block is None:
            raise ExportError(f"{name}: int8 needs a number of inputs that 32 divides, not {weight.shape[1]}")
        if f"{name}.q8" not in self.graph.initializers:
            table, scales = quantize_blocks(weight, block)
            self.graph.constant(f"{name}.q8", table)
            self.graph.constant(f"{name}.scales", scales.reshape(-1))
        return f"{name}.q8", f"{name}.scales", block

    def _head(self, x: str, bias: str, output: str) -> str:
        """Logits from the tied embedding; ``x`` is (n, width)."""
        g, weight = self.graph, self.weights["wte.weight"]
        if self.int8:
            return self._matmul_int8("wte.weight", weight, x, bias, output)
        return g.node("Gemm", [x, g.constant("wte.weight", weight), bias], output, transB=1)

    def _top(self, x: str, forbidden: Sequence[int]) -> list[ValueInfoProto]:
        g, a = self.graph, self.architecture
        last = g.node("Gather", [x, g.constant("last", np.array(-1, np.int64))], "last_hidden", axis=1)
        bias = np.zeros(a.vocabulary, np.float32)
        bias[list(forbidden)] = -np.inf
        logits = self._head(last, g.constant("head.bias", bias), "logits")  # (rows, vocabulary)
        top = min(MAX_TOP_K, a.vocabulary - len(set(forbidden)))
        g.nodes_out(
            "TopK", [logits, g.constant("top", np.array([top], np.int64))], ["top_logits", "top_ids"], axis=1
        )
        return [
            tensor("top_logits", TensorProto.FLOAT, ["rows", top]),
            tensor("top_ids", TensorProto.INT64, ["rows", top]),
        ]

    def _logits(self, x: str) -> list[ValueInfoProto]:
        g, a = self.graph, self.architecture
        flat = g.node("Reshape", [x, g.constant("flat", np.array([-1, a.width], np.int64))], "flat_hidden")
        logits = self._head(flat, g.constant("head.bias", np.zeros(a.vocabulary, np.float32)), "flat_logits")
        shape = g.node("Shape", ["input_ids"], "ids_shape")
        size = g.constant("vocabulary", np.array([a.vocabulary], np.int64))
        g.node("Reshape", [logits, g.node("Concat", [shape, size], "logits_shape", axis=0)], "logits")
        return [tensor("logits", TensorProto.FLOAT, ["rows", "tokens", a.vocabulary])]
