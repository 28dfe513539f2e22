"""The matrices of the decoder, in the kernels that were the fastest for each precision.

Measured with a 104M model on two cores (docs/benchmarks/): ``MatMulIntegerToFloat`` with constant activation
scales beats ``MatMulNBits`` with 8 bits in prefill and in batches, and equals it where one sequence waits for
memory. With 4 bits ``MatMulNBits`` reads half as much, and nothing else in ONNX Runtime reads 4 bits.
Every kernel gives a row of a batch the same numbers that it gives the row alone (see the decoder on pairs).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from export.calibration import Calibration
from export.onnx_graph import MICROSOFT, GraphWriter
from export.quantization import Floats, block_size, quantize_blocks, quantize_channels
from promptdial.errors import ExportError

EMBEDDING = "wte.weight"


class Matrices(Protocol):
    """Writes the lookups and products of one precision into a graph. ``weight`` is GPT-2's (in, out)."""

    def embed(self, table: Floats) -> str:
        """Rows of the token embedding (vocabulary, width) for ``input_ids``."""

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        """``x @ weight + bias``."""

    def head(self, x: str, table: Floats, bias: Floats) -> str:
        """``x @ table.T + bias`` in fp32, for ``x`` (n, width)."""


class FloatMatrices:
    """fp32, or fp16 for graphics cards: no CPU kernel multiplies it, ONNX Runtime casts there and back."""

    def __init__(self, graph: GraphWriter, dtype: type[np.floating[Any]]) -> None:
        self.graph, self.dtype = graph, dtype

    def embed(self, table: Floats) -> str:
        return self.graph.node("Gather", [self._constant(EMBEDDING, table), "input_ids"], "token")

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        product = self.graph.node("MatMul", [x, self._constant(f"{name}.weight", weight)], f"{name}.product")
        return self.graph.node("Add", [product, self._constant(f"{name}.bias", bias)], name)

    def head(self, x: str, table: Floats, bias: Floats) -> str:
        g = self.graph
        if self.dtype is np.float32:
            return g.node(
                "Gemm",
                [x, self._constant(EMBEDDING, table), g.constant("head.bias", bias)],
                "logits.all",
                transB=1,
            )
        product = g.node("Gemm", [x, self._constant(EMBEDDING, table)], "head.product", transB=1)
        wide = g.node("Cast", [product], "head.fp32", to=TensorProto.FLOAT)
        return g.node("Add", [wide, g.constant("head.bias", bias)], "logits.all")

    def _constant(self, name: str, value: Floats) -> str:
        return self.graph.constant(name, value.astype(self.dtype))


class Int8Matrices:
    """int8 weights per output channel, activations as bytes in constant steps: ``MatMulIntegerToFloat``.

    The tied embedding is stored once, by token; ONNX Runtime transposes it for the head while it loads.
    """

    def __init__(self, graph: GraphWriter, calibration: Calibration) -> None:
        self.graph, self.calibration = graph, calibration

    def embed(self, table: Floats) -> str:
        g = self.graph
        rows = g.node("Gather", [self._embedding(table), "input_ids"], "token.int8")
        scale = g.node("Gather", [f"{EMBEDDING}.scales", "input_ids"], "token.scale")  # (rows, tokens)
        axis = g.constant("last_axis", np.array([-1], np.int64))
        values = g.node("Cast", [rows], "token.whole", to=TensorProto.FLOAT)
        return g.node("Mul", [values, g.node("Unsqueeze", [scale, axis], "token.scales")], "token")

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        g = self.graph
        whole, scales = quantize_channels(weight)
        table = g.constant(f"{name}.weight.int8", whole)
        scale = g.constant(f"{name}.weight.scales", scales)
        return self._product(name, x, table, scale, g.constant(f"{name}.bias", bias), name)

    def head(self, x: str, table: Floats, bias: Floats) -> str:
        turned = self.graph.node("Transpose", [self._embedding(table)], "head.int8", perm=[1, 0])
        offset = self.graph.constant("head.bias", bias)
        return self._product("wte", x, turned, f"{EMBEDDING}.scales", offset, "logits.all")

    def _embedding(self, table: Floats) -> str:
        if f"{EMBEDDING}.int8" not in self.graph.initializers:
            whole, scales = quantize_channels(table.T)
            self.graph.constant(f"{EMBEDDING}.int8", whole.T)
            self.graph.constant(f"{EMBEDDING}.scales", scales)
        return f"{EMBEDDING}.int8"

    def _product(self, name: str, x: str, table: str, scales: str, bias: str, output: str) -> str:
        g, steps = self.graph, self.calibration.inputs[name]
        scale = g.constant(f"{name}.step", np.array(steps.scale, np.float32))
        zero = g.constant(f"{name}.zero", np.array(steps.zero_point, np.uint8))
        whole = g.node("QuantizeLinear", [x, scale, zero], f"{name}.input")
        return g.node(
            "MatMulIntegerToFloat", [whole, table, scale, scales, zero, "", bias], output, MICROSOFT
        )


class Int4Matrices(Int8Matrices):
    """4-bit weights in blocks, for the layers; the embedding and the head stay at 8 bits."""

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        g, (inputs, outputs) = self.graph, weight.shape
        block = block_size(inputs)
        if block is None:
            raise ExportError(f"{name}: int4 needs a number of inputs that 32 divides, not {inputs}")
        table, scales = quantize_blocks(np.ascontiguousarray(weight.T), block)
        operands = [
            x,
            g.constant(f"{name}.weight.int4", table),
            g.constant(f"{name}.weight.scales", scales.reshape(-1)),
        ]
        return g.node(
            "MatMulNBits",
            [*operands, "", "", g.constant(f"{name}.bias", bias)],
            name,
            MICROSOFT,
            N=outputs,
            K=inputs,
            bits=4,
            block_size=block,
            accuracy_level=4,
        )
