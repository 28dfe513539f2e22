"""The decoder: GPT-2 as an ONNX graph with the KV cache updated in place; one for all, or one for each phase.

Inputs: ``input_ids`` and ``position_ids`` (rows, tokens), ``seqlens_k`` (rows) = tokens in the cache
afterwards - 1, ``total_sequence_length`` (scalar, the longest row), and per layer
``past_key_i``/``past_value_i`` (rows, heads, capacity, head_dim). ``present_*`` has the same shape: the
caller binds both to one buffer, and ``GroupQueryAttention`` writes the new tokens into it and copies
nothing. Outputs: the 64 largest logits of each row's last token and their ids, in falling order. Control
tokens other than ``<end>`` carry a bias of -inf there, so they can never be generated.

fp32 is the reference. fp16 is for graphics cards. int8 and int4 quantize matrices (``export.matrices``) and
the KV cache, to 8 bits with a constant scale for each channel: attention waits for memory, so in a batch of
16 it takes half as long. Over a whole prompt it takes four times as long, however, so these precisions have a second
graph for prompts (``build_prefill``). It attends in fp32 over a cache of its own, and also gives the new keys and
values as the first graph's cache holds them: ``new_i`` (rows, tokens, 2 * width), keys first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from export.calibration import Calibration
from export.matrices import FloatMatrices, Int4Matrices, Int8FromInt4Matrices, Int8Matrices, Matrices
from export.onnx_graph import MICROSOFT, GraphWriter, tensor
from export.quantization import Floats
from promptdial.bundle import Architecture
from promptdial.engine import MAX_TOP_K
from promptdial.engine.decoder import IN_PAIRS
from promptdial.errors import ExportError

PRECISIONS = ("fp32", "fp16", "int8", "int4")
QUANTIZED = ("int8", "int4")
EPSILON = 1e-5  # GPT-2's layer norms
Tail = Literal["top", "logits"]


def build_decoder(
    weights: dict[str, Floats],
    architecture: Architecture,
    forbidden: Sequence[int],
    precision: str = "fp32",
    tail: Tail = "top",
    calibration: Calibration | None = None,
) -> ModelProto:
    """The graph of a state dict (names without ``transformer.``). int8 and int4 need a calibration.

    ``forbidden`` ids are never among the top. ``tail="logits"`` gives the logits of all tokens instead,
    without that mask (rows, tokens, vocabulary): parity is measured on it.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; one of {', '.join(PRECISIONS)}")
    return _Decoder(weights, architecture, precision, calibration).model(forbidden, tail)


def build_prefill(
    weights: dict[str, Floats],
    architecture: Architecture,
    forbidden: Sequence[int],
    precision: str,
    calibration: Calibration,
) -> ModelProto:
    """The graph for prompts of a quantized precision; its matrices are those of ``build_decoder``."""
    return _Prefill(weights, architecture, precision, calibration).model(forbidden, "top")


class _Decoder:
    kinds: ClassVar[dict[str, type[Int8Matrices]]] = {"int8": Int8Matrices, "int4": Int4Matrices}

    def __init__(
        self,
        weights: dict[str, Floats],
        architecture: Architecture,
        precision: str,
        calibration: Calibration | None,
    ) -> None:
        self.weights, self.architecture, self.calibration = weights, architecture, calibration
        self.graph = GraphWriter()
        self.matrices: Matrices
        self.float: type[np.floating[Any]] = np.float32
        self.cache_type = TensorProto.FLOAT
        if precision in QUANTIZED:
            if calibration is None:
                raise ExportError(f"{precision} needs a calibration")
            self.matrices = self.kinds[precision](self.graph, calibration)
            self.cache_type = TensorProto.INT8
        else:
            if precision == "fp16":
                self.float, self.cache_type = np.float16, TensorProto.FLOAT16
            self.matrices = FloatMatrices(self.graph, self.float)

    def model(self, forbidden: Sequence[int], tail: Tail) -> ModelProto:
        g, a = self.graph, self.architecture
        places = self._constant("wpe.weight")
        token = self.matrices.embed(self.weights["wte.weight"])
        x = g.node("Add", [token, g.node("Gather", [places, "position_ids"], "place")], "embedding")
        for layer in range(a.layers):
            x = self._layer(layer, x, last_only=tail == "top" and layer == a.layers - 1)
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
                inputs.append(tensor(f"past_{part}_{layer}", self.cache_type, cache))
                outputs.append(tensor(f"present_{part}_{layer}", self.cache_type, cache))
        outputs += self._more_outputs()
        return g.model("decoder", inputs, outputs, {IN_PAIRS: "yes"} if self.matrices.in_pairs else None)

    def _more_outputs(self) -> list[ValueInfoProto]:
        return []

    def _layer(self, layer: int, x: str, *, last_only: bool) -> str:
        """One block; ``last_only`` goes on with the last token alone once all are in the cache."""
        g = self.graph
        name = f"h.{layer}"
        qkv = self._linear(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", x))
        mixed = self._attention(layer, qkv)
        if last_only:
            last = g.constant("last", np.array([-1], np.int64))
            mixed = g.node("Gather", [mixed, last], f"{name}.mixed.last", axis=1)
            x = g.node("Gather", [x, last], f"{name}.last", axis=1)
        # Add and LayerNormalization apart are faster than SkipLayerNormalization on the CPU.
        x = g.node("Add", [x, self._linear(f"{name}.attn.c_proj", mixed)], f"{name}.middle")
        wide = self._linear(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", x))
        wide = g.node("FastGelu", [wide], f"{name}.mlp.gelu", MICROSOFT)
        return g.node("Add", [x, self._linear(f"{name}.mlp.c_proj", wide)], f"{name}.out")

    def _attention(self, layer: int, qkv: str) -> str:
        """Causal attention over the cache, to which the new keys and values are added."""
        g, heads = self.graph, self.architecture.heads
        inputs = [qkv, "", "", f"past_key_{layer}", f"past_value_{layer}"]
        inputs += ["seqlens_k", "total_sequence_length"]
        options: dict[str, Any] = {"num_heads": heads, "kv_num_heads": heads, "do_rotary": 0}
        if self.cache_type == TensorProto.INT8 and self.calibration is not None:
            scales = {"key": self.calibration.keys[layer], "value": self.calibration.values[layer]}
            inputs += ["", "", "", "", ""]
            inputs += [g.constant(f"h.{layer}.{part}.scales", value) for part, value in scales.items()]
            options |= {f"{part}_quant_type": "PER_CHANNEL" for part in "kv"} | {"kv_cache_bit_width": 8}
        outputs = [f"h.{layer}.attn", f"present_key_{layer}", f"present_value_{layer}"]
        return g.nodes_out("GroupQueryAttention", inputs, outputs, MICROSOFT, **options)[0]

    def _norm(self, name: str, x: str) -> str:
        parts = [self._constant(f"{name}.{part}") for part in ("weight", "bias")]
        return self.graph.node("LayerNormalization", [x, *parts], name, epsilon=EPSILON)

    def _linear(self, name: str, x: str) -> str:
        return self.matrices.linear(name, x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _constant(self, name: str) -> str:
        return self.graph.constant(name, self.weights[name].astype(self.float))

    def _top(self, x: str, forbidden: Sequence[int]) -> list[ValueInfoProto]:
        g, a = self.graph, self.architecture
        flat = g.constant("flat", np.array([-1, a.width], np.int64))
        last = g.node("Reshape", [x, flat], "last_hidden")  # (rows, width): one token of each row is left
        bias = np.zeros(a.vocabulary, np.float32)
        bias[list(forbidden)] = -np.inf
        logits = self.matrices.head(last, self.weights["wte.weight"], bias)  # (rows, vocabulary)
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
        logits = self.matrices.head(flat, self.weights["wte.weight"], np.zeros(a.vocabulary, np.float32))
        shape = g.node("Shape", ["input_ids"], "ids_shape")
        size = g.constant("vocabulary", np.array([a.vocabulary], np.int64))
        g.node("Reshape", [logits, g.node("Concat", [shape, size], "logits_shape", axis=0)], "logits")
        return [tensor("logits", TensorProto.FLOAT, ["rows", "tokens", a.vocabulary])]


class _Prefill(_Decoder):
    """Reads prompts for a cache of bytes: fp32 attention, products of bytes also where weights have 4 bits."""

    kinds: ClassVar[dict[str, type[Int8Matrices]]] = {"int8": Int8Matrices, "int4": Int8FromInt4Matrices}

    def __init__(
        self,
        weights: dict[str, Floats],
        architecture: Architecture,
        precision: str,
        calibration: Calibration,
    ) -> None:
        super().__init__(weights, architecture, precision, calibration)
        self.scales = [
            np.concatenate(each) for each in zip(calibration.keys, calibration.values, strict=True)
        ]
        self.cache_type = TensorProto.FLOAT

    def _attention(self, layer: int, qkv: str) -> str:
        """Attention over the fp32 cache; keys and values also go out as bytes, by the other cache's scales."""
        g, width = self.graph, self.architecture.width
        ends = [g.constant(f"new.{end}", np.array([end * width], np.int64)) for end in (1, 3)]
        axis = g.constant("last_axis", np.array([-1], np.int64))
        part = g.node("Slice", [qkv, *ends, axis], f"h.{layer}.new")
        inverse = g.constant(f"h.{layer}.new.inverse", (1 / self.scales[layer]).astype(np.float32))
        scaled = g.node("Mul", [part, inverse], f"h.{layer}.new.scaled")
        one, zero = g.constant("one", np.array(1, np.float32)), g.constant("zero", np.array(0, np.int8))
        g.node("QuantizeLinear", [scaled, one, zero], f"new_{layer}")
        return super()._attention(layer, qkv)

    def _more_outputs(self) -> list[ValueInfoProto]:
        a = self.architecture
        shape: list[int | str] = ["rows", "tokens", 2 * a.width]
        return [tensor(f"new_{layer}", TensorProto.INT8, shape) for layer in range(a.layers)]
