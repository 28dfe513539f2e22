"""A graph of the decoder with the KV cache that it updates in place.

The cache is one buffer per layer and part, (rows, heads, capacity, head_dim), in the type that the graph asks for.
Past and present are bound to the same memory, so that a run writes its new tokens in place and copies nothing. Bindings
are made once for each shape. Buffers start small and double, up to ``capacity``, when a sequence needs more positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdial.bundle import Architecture
from promptdial.engine.memory import Buffer, Memory

FIRST_CAPACITY = 128  # positions that the cache starts with
CACHE_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


class Top(NamedTuple):
    """The largest logits of each row and their token ids, in falling order; overwritten by the next call."""

    logits: NDArray[np.float32]  # (rows, top)
    ids: NDArray[np.int64]  # (rows, top)


class CachedGraph:
    """A graph's sessions, its cache of ``rows`` rows, and the arrays that it reads from and writes to.

    The sessions differ in their threads alone; ``chosen`` is the index of the one that runs.
    """

    def __init__(
        self, sessions: Sequence[Any], memory: Memory, architecture: Architecture, rows: int, capacity: int
    ) -> None:
        self.sessions, self.chosen = sessions, 0
        session = sessions[0]
        self.capacity = capacity
        self._memory = memory
        self._heads, self._head_dim = architecture.heads, architecture.head_dim
        self._type = cache_dtype(session)
        top = int(session.get_outputs()[0].shape[1])
        tokens = max(rows, capacity)
        self._inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros(tokens, np.int64),
            "position_ids": np.zeros(tokens, np.int64),
            "seqlens_k": np.zeros(rows, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
        }
        self._top: dict[str, NDArray[Any]] = {
            "top_logits": np.zeros((rows, top), np.float32),
            "top_ids": np.zeros((rows, top), np.int64),
        }
        # What a graph for prompts gives for another graph's cache: keys, then values, of the new tokens.
        self._new = {
            node.name: np.zeros((capacity, 2 * architecture.width), np.int8)
            for node in session.get_outputs()
            if node.name.startswith("new_")
        }
        self.allocated = min(FIRST_CAPACITY, capacity) if memory.on_host else capacity
        shape = (rows, architecture.heads, self.allocated, architecture.head_dim)
        self._caches: dict[str, Buffer] = {
            f"{part}_{layer}": memory.buffer(shape, self._type)
            for layer in range(architecture.layers)
            for part in ("key", "value")
        }
        self._bindings: dict[tuple[int, int, int, int], Any] = {}

    @property
    def session(self) -> Any:
        """The session that runs."""
        return self.sessions[self.chosen]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the whole cache at present."""
        return sum(cache.nbytes for cache in self._caches.values())

    def reserve(self, positions: int) -> None:
        """Make room for sequences of ``positions`` tokens; what the rows hold stays."""
        if positions > self.allocated:
            grown = self.allocated
            while grown < positions:
                grown *= 2
            self.allocated = min(grown, self.capacity)
            self._caches = {name: cache.grown(self.allocated) for name, cache in self._caches.items()}
            self._bindings.clear()  # their addresses are those of the old buffers

    def set_inputs(self, ids: Any, positions: Any, last: Any, longest: int) -> None:
        """Flat ids and positions of the new tokens, the last position of each row, tokens of the longest row."""
        self._inputs["input_ids"][: len(ids)] = ids
        self._inputs["position_ids"][: len(positions)] = positions
        self._inputs["seqlens_k"][: len(last)] = last
        self._inputs["total_sequence_length"][()] = longest

    def run(self, row: int, rows: int, tokens: int) -> Top:
        """``tokens`` new tokens for each of ``rows`` rows from ``row`` on."""
        key = (self.chosen, row, rows, tokens)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._binding(row, rows, tokens)
        if not self._memory.on_host:  # binding an input copies it to the device
            self._bind_inputs(binding, rows, tokens)
        self.session.run_with_iobinding(binding)
        return Top(self._top["top_logits"][:rows], self._top["top_ids"][:rows])

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row."""
        for cache in self._caches.values():
            cache.copy_row(source, target, length)

    def take_new(self, reader: CachedGraph, row: int, past: int, count: int) -> None:
        """Write the keys and values that ``reader``'s last run gave for ``count`` tokens into a row."""
        shape = (count, 2, self._heads, self._head_dim)
        for layer, new in enumerate(reader._new.values()):
            keys, values = new[:count].reshape(shape).transpose(1, 2, 0, 3)
            self._caches[f"key_{layer}"].write(row, past, keys)
            self._caches[f"value_{layer}"].write(row, past, values)

    def _binding(self, row: int, rows: int, tokens: int) -> Any:
        """The cache from ``row`` on, as past and as present, the outputs, and the inputs."""
        binding = self.session.io_binding()
        device, shape = self._memory.device, [rows, self._heads, self.allocated, self._head_dim]
        for name, cache in self._caches.items():
            address = cache.address(row)
            binding.bind_input(f"past_{name}", device, 0, self._type, shape, address)
            binding.bind_output(f"present_{name}", device, 0, self._type, shape, address)
        for name, array in self._top.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, [rows, array.shape[1]], array.ctypes.data)
        for name, array in self._new.items():
            shape = [rows, tokens, array.shape[1]]
            binding.bind_output(name, "cpu", 0, np.int8, shape, array.ctypes.data)
        if self._memory.on_host:
            self._bind_inputs(binding, rows, tokens)
        return binding

    def _bind_inputs(self, binding: Any, rows: int, tokens: int) -> None:
        shapes = {"seqlens_k": [rows], "total_sequence_length": []}
        for name, array in self._inputs.items():
            shape = shapes.get(name, [rows, tokens])
            binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)


def cache_dtype(session: Any) -> type[np.generic]:
    """The type of a decoder session's KV cache."""
    found = next(node.type for node in session.get_inputs() if node.name.startswith("past_key_"))
    return CACHE_TYPES[found]
