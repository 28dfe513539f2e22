"""The matrices of the decoder, in the kernels that were the fastest for each precision.

Measured with a 104M model on two cores (docs/benchmarks/): ``MatMulIntegerToFloat`` with constant activation
scales beats ``MatMulNBits`` with 8 bits in prefill and in batches, and equals it where one sequence waits for
memory. With 4 bits ``MatMulNBits`` reads half as much, and nothing else in ONNX Runtime reads 4 bits.
Every kernel gives a row of a batch the same numbers that it gives the row alone (see the decoder on pairs).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.calibration import Calibration
from export.onnx_graph import MICROSOFT, GraphWriter
from export.quantization import (
    ZERO_POINT_4,
    Floats,
    block_size,
    dequantize_blocks,
    quantize_blocks,
    quantize_channels,
)
from promptdial.errors import ExportError

EMBEDDING = "wte.weight"


class Matrices(Protocol):
    """Writes the lookups and products of one precision into a graph. ``weight`` is GPT-2's (in, out)."""

    in_pairs: bool  # whether a last odd row of a batch may be rounded differently from the others

    def embed(self, table: Floats) -> str:
        """Rows of the token embedding (vocabulary, width) for ``input_ids``."""

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        """``x @ weight + bias``."""

    def head(self, x: str, table: Floats, bias: Floats) -> str:
        """``x @ table.T + bias`` in fp32, for ``x`` (n, width)."""


class FloatMatrices:
    """fp32, or fp16 for graphics cards: no CPU kernel multiplies it, ONNX Runtime casts there and back."""

    in_pairs = False

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

    in_pairs = False

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
    """4-bit weights in blocks, for the layers; the embedding and the head stay at 8 bits.

    ``MatMulNBits`` takes rows in pairs on x86-64, and a last odd one by another kernel.
    """

    in_pairs = True

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        g, (inputs, outputs) = self.graph, weight.shape
        table, scales = _blocks(name, weight)
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
            block_size=inputs // table.shape[1],
            accuracy_level=4,
        )


class Int8FromInt4Matrices(Int8Matrices):
    """The 4-bit weights of ``Int4Matrices``, multiplied as bytes: three times as fast over a whole prompt.

    The file holds 4 bits; ONNX Runtime folds the conversion into a matrix of int8 per output channel while it loads.
    """

    def linear(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        g = self.graph
        table, scales = _blocks(name, weight)
        _, steps = quantize_channels(np.ascontiguousarray(dequantize_blocks(table, scales).T))
        zeros = np.full((scales.size + 1) // 2, ZERO_POINT_4 * 0x11, np.uint8)
        packed = [
            g.packed(f"{name}.weight.int4", table, TensorProto.UINT4, [len(table), len(weight)]),
            g.constant(f"{name}.weight.scales", scales),
            g.packed(f"{name}.weight.zeros", zeros, TensorProto.UINT4, list(scales.shape)),
        ]
        block = len(weight) // table.shape[1]
        wide = g.node("DequantizeLinear", packed, f"{name}.weight.wide", axis=1, block_size=block)
        turned = g.node("Transpose", [wide], f"{name}.weight.turned", perm=[1, 0])
        scale = g.constant(f"{name}.weight.scales8", steps)
        none = g.constant(f"{name}.weight.zeros8", np.zeros(len(steps), np.int8))
        bytes_ = g.node("QuantizeLinear", [turned, scale, none], f"{name}.weight.int8", axis=1)
        return self._product(name, x, bytes_, scale, g.constant(f"{name}.bias", bias), name)


def _blocks(name: str, weight: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """``quantize_blocks`` of GPT-2's (in, out). Raises ExportError for sizes that 4 bits don't fit."""
    block = block_size(len(weight))
    if block is None:
        raise ExportError(f"{name}: int4 needs a number of inputs that 32 divides, not {len(weight)}")
    return quantize_blocks(np.ascontiguousarray(weight.T), block)
