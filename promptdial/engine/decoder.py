"""The decoder's ONNX session and its KV cache: token ids in, the top logits of each row out.

The cache is one buffer per layer and part, (rows, heads, capacity, head_dim), in the type that the graph
asks for (8 bits for int8 and int4 bundles). Past and present of the graph are bound to the same memory, so a
step writes its new tokens in place and copies nothing. Decoding runs over rows 0..n-1, each with a length of
its own; prefill runs over one row, in one or several pieces. Buffers start small and double, up to
``capacity``, when a sequence needs more positions.

A row's numbers must depend neither on its neighbours nor on how its prompt was cut, or a seed would mean
nothing in a batch. Two probes at the start tell what the kernels of this graph on this CPU need for that.
Where they take rows in pairs and a last odd one alone, and round the two differently, decoding always runs
over an even number of rows, with an idle one at the end. Where the cut shows, prompts are always cut at the
same places; else pieces are small while others decode and large while nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from promptdial.bundle import Architecture
from promptdial.engine.memory import Buffer, Memory
from promptdial.errors import BundleError, DeviceError

FIRST_CAPACITY = 128  # positions that the cache starts with
SMALL_CHUNK, FIXED_CHUNK, LARGE_CHUNK = 16, 32, 64  # tokens of a prompt read at once
CACHE_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Top(NamedTuple):
    """The largest logits of each row and their token ids, in falling order; overwritten by the next call."""

    logits: NDArray[np.float32]  # (rows, top)
    ids: NDArray[np.int64]  # (rows, top)


class Decoder:
    """One session, one cache. Not safe for threads: the engine's thread owns it.

    ``slots`` rows decode; one more, ``staging``, is for prompts that are read piece by piece. With ``profile``,
    the beginning of a path, ONNX Runtime notes the time of every node until ``end_profiling``.
    """

    def __init__(
        self,
        path: Path,
        architecture: Architecture,
        *,
        threads: int,
        slots: int,
        device: str = "cpu",
        capacity: int | None = None,
        profile: Path | None = None,
    ) -> None:
        self.slots = slots
        self.capacity = min(capacity or architecture.positions, architecture.positions)
        self.vocabulary = architecture.vocabulary
        self._session = open_session(path, threads, device, profile)
        self._check(path, architecture)
        self._memory = Memory(device, [PROVIDERS[device]])
        # An idle row may be decoded beside an odd number of others, so there is one between them and staging.
        self.staging = slots + slots % 2
        self._rows = self.staging + 1
        self._heads, self._head_dim = architecture.heads, architecture.head_dim
        self._type = cache_dtype(self._session)
        top = int(self._session.get_outputs()[0].shape[1])
        tokens = max(self._rows, self.capacity)
        self._inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros(tokens, np.int64),
            "position_ids": np.zeros(tokens, np.int64),
            "seqlens_k": np.zeros(self._rows, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
        }
        self._outputs: dict[str, NDArray[Any]] = {
            "top_logits": np.zeros((self._rows, top), np.float32),
            "top_ids": np.zeros((self._rows, top), np.int64),
        }
        self._allocated = min(FIRST_CAPACITY, self.capacity) if self._memory.on_host else self.capacity
        shape = (self._rows, architecture.heads, self._allocated, architecture.head_dim)
        self._caches: dict[str, Buffer] = {
            f"{part}_{layer}": self._memory.buffer(shape, self._type)
            for layer in range(architecture.layers)
            for part in ("key", "value")
        }
        self._bindings: dict[tuple[int, int, int], Any] = {}
        self.in_pairs = False
        self.in_pairs = not self._rows_are_apart()
        self.cuts_freely = self._cuts_are_alike()

    @property
    def chunk(self) -> int:
        """How many tokens of a prompt to read at once while other sequences decode."""
        return SMALL_CHUNK if self.cuts_freely else FIXED_CHUNK

    @property
    def idle_chunk(self) -> int:
        """How many to read at once while none does."""
        return LARGE_CHUNK if self.cuts_freely else FIXED_CHUNK

    @property
    def allocated(self) -> int:
        """Positions that every row has room for at present."""
        return self._allocated

    @property
    def cache_bytes(self) -> int:
        """Bytes of the whole cache at present."""
        return sum(cache.nbytes for cache in self._caches.values())

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        """Read ``tokens`` into a row that already holds ``past`` tokens; the top after the last one."""
        count = len(tokens)
        self._reserve(past + count)
        self._inputs["input_ids"][:count] = tokens
        self._inputs["position_ids"][:count] = np.arange(past, past + count)
        self._inputs["seqlens_k"][0] = past + count - 1
        self._inputs["total_sequence_length"][()] = past + count
        return self._run(row, 1, count)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        """One new token for each of the rows 0..n-1, which hold ``lengths`` tokens before it."""
        rows = len(tokens)
        run = rows + rows % 2 if self.in_pairs else rows
        longest = max(lengths) + 1
        self._reserve(longest)
        for name, values in (("input_ids", tokens), ("position_ids", lengths), ("seqlens_k", lengths)):
            self._inputs[name][:rows] = values
            self._inputs[name][rows:run] = 0
        self._inputs["total_sequence_length"][()] = longest
        top = self._run(0, run, 1)
        return Top(top.logits[:rows], top.ids[:rows])

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row."""
        for cache in self._caches.values():
            cache.copy_row(source, target, length)

    def end_profiling(self) -> Path:
        """Write the profile, in Chrome's trace format, and return its path."""
        return Path(self._session.end_profiling())

    def _run(self, row: int, rows: int, tokens: int) -> Top:
        """``tokens`` new tokens for each of ``rows`` rows from ``row`` on."""
        key = (row, rows, tokens)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._binding(*key)
        if not self._memory.on_host:  # binding an input copies it to the device
            self._bind_inputs(binding, rows, tokens)
        self._session.run_with_iobinding(binding)
        return Top(self._outputs["top_logits"][:rows], self._outputs["top_ids"][:rows])

    def _binding(self, row: int, rows: int, tokens: int) -> Any:
        """The cache from ``row`` on, as past and as present, the outputs, and the inputs."""
        binding = self._session.io_binding()
        device, shape = self._memory.device, [rows, self._heads, self._allocated, self._head_dim]
        for name, cache in self._caches.items():
            address = cache.address(row)
            binding.bind_input(f"past_{name}", device, 0, self._type, shape, address)
            binding.bind_output(f"present_{name}", device, 0, self._type, shape, address)
        for name, array in self._outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, [rows, array.shape[1]], array.ctypes.data)
        if self._memory.on_host:
            self._bind_inputs(binding, rows, tokens)
        return binding

    def _bind_inputs(self, binding: Any, rows: int, tokens: int) -> None:
        shapes = {"seqlens_k": [rows], "total_sequence_length": []}
        for name, array in self._inputs.items():
            shape = shapes.get(name, [rows, tokens])
            binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

    def _reserve(self, positions: int) -> None:
        """Make room for sequences of ``positions`` tokens; what the rows hold stays."""
        if positions > self._allocated:
            grown = self._allocated
            while grown < positions:
                grown *= 2
            self._allocated = min(grown, self.capacity)
            self._caches = {name: cache.grown(self._allocated) for name, cache in self._caches.items()}
            self._bindings.clear()  # their addresses are those of the old buffers

    def _rows_are_apart(self) -> bool:
        """Whether rows get the same bits alone and in batches of even and odd size."""
        count = min(self.slots, 8)
        ids = [index * self.vocabulary // count for index in range(count)]
        reference = self.decode(ids, [0] * count).logits.copy()
        for size in (1, 3):
            for start in range(0, count - size + 1, size):
                top = self.decode(ids[start : start + size], [0] * size)
                if not np.array_equal(top.logits, reference[start : start + size]):
                    return False
        return True

    def _cuts_are_alike(self) -> bool:
        """Whether a prompt gets the same bits in one piece and in several, odd ones among them."""
        prompt = [token % self.vocabulary for token in range(min(40, self.capacity))]
        seen = set()
        for cut in (len(prompt), 16, 7):
            for past in range(0, len(prompt), cut):
                top = self.prefill(self.staging, prompt[past : past + cut], past)
            seen.add(top.logits[0].tobytes())
        return len(seen) == 1

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


def cache_dtype(session: Any) -> type[np.generic]:
    """The type of a decoder session's KV cache."""
    found = next(node.type for node in session.get_inputs() if node.name.startswith("past_key_"))
    return CACHE_TYPES[found]


def open_session(path: Path, threads: int, device: str = "cpu", profile: Path | None = None) -> Any:
    """A session with the options that serving uses. Raises BundleError, or DeviceError without the device."""
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"device {device!r} was asked for, but this installation of ONNX Runtime has no {provider}: "
            f"install promptdial[gpu] in place of promptdial[serve], or set 'cpu'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if device != "cpu":  # a node without a kernel there would run on the CPU without a word
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # The graph is written with the ops that are fast; fusing further (SkipLayerNormalization) slows it down.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise BundleError(
            f"{path} is no decoder that ONNX Runtime can load ({error}): "
            f"export the bundle again with `python -m export CHECKPOINT BUNDLE`"
        ) from error
    if provider not in session.get_providers():  # ONNX Runtime falls back without a word
        raise DeviceError(
            f"device {device!r} was asked for, but {provider} could not be started here "
            f"(is there a driver, and a free GPU?): ONNX Runtime would use {session.get_providers()}"
        )
    return session
