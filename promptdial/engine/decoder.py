"""The decoder's ONNX session and its KV cache: token ids in, the top logits of each row out.

The cache is one buffer per layer and part, (slots, heads, capacity, head_dim). Past and present of the
graph are bound to the same memory, so a step writes its new tokens in place and copies nothing. Decoding
runs over rows 0..n-1, each with a length of its own; prefill runs over one row, in one or several pieces.
Pages of the cache that no sequence has reached stay untouched, so they take no memory.

Decoding always runs over an even number of rows, with an idle one at the end if need be: ONNX Runtime's
int8 kernel takes rows in pairs and a last odd one alone, and the two round differently, so that a sequence
would depend on its place in the batch. In pairs, a row's numbers are the same bits at every batch size
(measured, x86-64 AVX-512).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from promptdial.bundle import Architecture
from promptdial.errors import BundleError, DeviceError


class Top(NamedTuple):
    """The largest logits of each row and their token ids, in falling order; overwritten by the next call."""

    logits: NDArray[np.float32]  # (rows, top)
    ids: NDArray[np.int64]  # (rows, top)


class Decoder:
    """One session, one cache. Not safe for threads: the engine's thread owns it."""

    def __init__(
        self,
        path: Path,
        architecture: Architecture,
        *,
        threads: int,
        slots: int,
        device: str = "cpu",
        capacity: int | None = None,
    ) -> None:
        if device != "cpu":
            raise DeviceError(
                f"this version decodes on the CPU only, device {device!r} can't be had: set 'cpu'"
            )
        self.slots = slots
        self.capacity = min(capacity or architecture.positions, architecture.positions)
        self.chunk = 32  # most tokens of one prefill
        self.staging = slots + slots % 2  # one more row, which no decode step reaches
        rows = self.staging + 2
        self.vocabulary = architecture.vocabulary
        self._layers = architecture.layers
        self._session = open_session(path, threads)
        self._check(path, architecture)
        shape = (rows, architecture.heads, self.capacity, architecture.head_dim)
        self._caches = {
            f"{part}_{layer}": np.zeros(shape, np.float32)
            for layer in range(self._layers)
            for part in ("key", "value")
        }
        top = int(self._session.get_outputs()[0].shape[1])
        self._inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros(max(rows, self.capacity), np.int64),
            "position_ids": np.zeros(max(rows, self.capacity), np.int64),
            "seqlens_k": np.zeros(rows, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
        }
        self._outputs: dict[str, NDArray[Any]] = {
            "top_logits": np.zeros((rows, top), np.float32),
            "top_ids": np.zeros((rows, top), np.int64),
        }
        self._prefills = [self._binding(row, 1) for row in range(rows)]
        self._decodes = {count: self._binding(0, count) for count in range(2, self.staging + 1, 2)}
        for count, binding in self._decodes.items():
            self._bind_tokens(binding, (count, 1))

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        """Read ``tokens`` into a row that already holds ``past`` tokens; the top after the last one."""
        count = len(tokens)
        self._inputs["input_ids"][:count] = tokens
        self._inputs["position_ids"][:count] = np.arange(past, past + count)
        self._inputs["seqlens_k"][0] = past + count - 1
        self._inputs["total_sequence_length"][()] = past + count
        self._bind_tokens(self._prefills[row], (1, count))
        return self._run(self._prefills[row], 1)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        """One new token for each of the rows 0..n-1, which hold ``lengths`` tokens before it."""
        rows = len(tokens)
        even = rows + rows % 2
        for name, values in (("input_ids", tokens), ("position_ids", lengths), ("seqlens_k", lengths)):
            self._inputs[name][:rows] = values
            self._inputs[name][rows:even] = 0
        self._inputs["total_sequence_length"][()] = max(lengths) + 1
        return self._run(self._decodes[even], rows)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row."""
        for cache in self._caches.values():
            cache[target, :, :length] = cache[source, :, :length]

    def _run(self, binding: Any, rows: int) -> Top:
        self._session.run_with_iobinding(binding)
        return Top(self._outputs["top_logits"][:rows], self._outputs["top_ids"][:rows])

    def _binding(self, row: int, rows: int) -> Any:
        """Everything bound but the tokens: the cache from ``row`` on, the outputs, the lengths."""
        binding = self._session.io_binding()
        for name, cache in self._caches.items():
            shape, address = [rows, *cache.shape[1:]], cache[row:].ctypes.data
            binding.bind_input(f"past_{name}", "cpu", 0, np.float32, shape, address)
            binding.bind_output(f"present_{name}", "cpu", 0, np.float32, shape, address)
        for name, array in self._outputs.items():
            shape = [rows, array.shape[1]]
            binding.bind_output(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
        for name, shape in (("seqlens_k", [rows]), ("total_sequence_length", [])):
            binding.bind_input(name, "cpu", 0, np.int32, shape, self._inputs[name].ctypes.data)
        return binding

    def _bind_tokens(self, binding: Any, shape: tuple[int, int]) -> None:
        for name in ("input_ids", "position_ids"):
            binding.bind_input(name, "cpu", 0, np.int64, list(shape), self._inputs[name].ctypes.data)

    def _check(self, path: Path, architecture: Architecture) -> None:
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        layers = sum(name.startswith("past_key_") for name in shapes)
        cache = shapes.get("past_key_0", [None] * 4)
        found = (layers, cache[1], cache[3])
        if found != (architecture.layers, architecture.heads, architecture.head_dim):
            raise BundleError(
                f"{path} has (layers, heads, head_dim) {found}, which is not what bundle.json says: "
                f"export the bundle again with `python -m export CHECKPOINT BUNDLE`"
            )


def open_session(path: Path, threads: int) -> Any:
    """A session with the options that serving uses. Raises BundleError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The graph is written with the ops that are fast; fusing further (SkipLayerNormalization) slows it down.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise BundleError(
            f"{path} is no decoder that ONNX Runtime can load ({error}): "
            f"export the bundle again with `python -m export CHECKPOINT BUNDLE`"
        ) from error
