"""The decoder: token ids in, the top logits of each row out, over one graph or one for each phase.

Decoding runs over rows 0..n-1 of the KV cache, each with a length of its own; prefill runs over one row, in one or
several pieces. Quantized bundles bring a graph for each: prompts are bound by arithmetic, so theirs multiplies bytes
and attends in fp32, while steps wait for memory, so theirs has the narrowest weights and an 8-bit cache. The graph for
prompts keeps the prompt that is being read in a small fp32 cache of its own, and hands the same keys and values, in 8
bits, to the row that goes on.

A row's numbers must depend neither on its neighbours nor on how its prompt was cut, or a seed would mean
nothing in a batch. The graph's metadata and two probes at the start tell what its kernels on this CPU need for that.
Where they take rows in pairs and a last odd one alone, and round the two differently, decoding always runs
over an even number of rows, with an idle one at the end. Where the cut shows, prompts are always cut at the
same places; else pieces are as large as others can wait for.

On a CPU each graph has two sessions: one with all threads, for a request that is alone, and one with a thread less, for
when there are several. Then scoring and HTTP need a core at the same time, and threads that wait for one that was
taken off its core cost more than they bring (docs/engine.md has figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from promptdial.bundle import Architecture, Bundle
from promptdial.engine.cached import CachedGraph, Top
from promptdial.engine.memory import Memory, give_back
from promptdial.errors import BundleError, DeviceError

PIECES = (16, 32, 48, 64)  # tokens of a prompt that may be read at once
FIXED_PIECE = 32  # where the cut shows
IN_PAIRS = "in_pairs"  # metadata of a graph whose kernels are known to need it
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Decoder:
    """Graphs and cache. Not safe for threads: the engine's thread owns it.

    ``path`` is the graph of the steps, and of prompts too, unless ``prefill`` names another one for these.
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
        prefill: Path | None = None,
        device: str = "cpu",
        capacity: int | None = None,
        profile: Path | None = None,
    ) -> None:
        self.slots, self.threads, self.device = slots, threads, device
        self.capacity = min(capacity or architecture.positions, architecture.positions)
        self.vocabulary = architecture.vocabulary
        # An idle row may be decoded beside an odd number of others, so there is one between them and staging.
        self.staging = slots + slots % 2

        counts = (threads, threads - 1) if device == "cpu" and threads > 1 else (threads,)

        def graph(file: Path, rows: int) -> CachedGraph:
            sessions = [open_session(file, threads, device, profile)]
            sessions += [open_session(file, count, device) for count in counts[1:]]
            _check(file, sessions[0], architecture)
            memory = Memory(device, [PROVIDERS[device]])
            return CachedGraph(sessions, memory, architecture, rows, self.capacity)

        self._steps = graph(path, self.staging + 1)
        self._reader = graph(prefill, 1) if prefill else self._steps
        self._read = (0, 0)  # row and tokens of the prompt that the reader holds
        self.in_pairs = IN_PAIRS in self._steps.session.get_modelmeta().custom_metadata_map
        self.in_pairs = self.in_pairs or not self._rows_are_apart()
        self.cuts_freely = self._cuts_are_alike()
        self._makes_room = len(counts) > 1 and self._threads_are_alike()
        give_back()

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, threads: int, slots: int, device: str = "cpu", capacity: int | None = None
    ) -> Decoder:
        """The decoder of a bundle. Raises BundleError or DeviceError."""
        return cls(
            bundle.decoder_path,
            bundle.architecture,
            threads=threads,
            slots=slots,
            prefill=bundle.prefill_path,
            device=device,
            capacity=capacity,
        )

    def make_room(self, room: bool) -> None:
        """Leave a core to others from now on, or take all threads; without effect where there is one thread, or where
        their number would show in the numbers."""
        self._choose(int(room and self._makes_room))

    def _choose(self, session: int) -> None:
        self._reader.chosen = self._steps.chosen = session

    @property
    def pieces(self) -> tuple[int, ...]:
        """How many tokens of a prompt may be read at once, in rising order."""
        return PIECES if self.cuts_freely else (FIXED_PIECE,)

    @property
    def provider(self) -> str:
        """What runs the steps at present, by ONNX Runtime's name."""
        return str(self._steps.session.get_providers()[0])

    @property
    def allocated(self) -> int:
        """Positions that every row has room for at present."""
        return self._steps.allocated

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches at present."""
        graphs = {id(graph): graph for graph in (self._steps, self._reader)}
        return sum(graph.cache_bytes for graph in graphs.values())

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        """Read ``tokens`` into a row that already holds ``past`` tokens; the top after the last one.

        The pieces of a prompt follow each other: no other prompt is read in between.
        """
        assert past == 0 or self._reader is self._steps or self._read == (row, past), "pieces out of order"
        count, reader = len(tokens), self._reader
        for graph in (reader, self._steps):
            graph.reserve(past + count)
        end = past + count
        reader.set_inputs(tokens, np.arange(past, end), [end - 1], end)
        if reader is self._steps:
            return reader.run(row, 1, count)
        top = reader.run(0, 1, count)
        self._steps.take_new(reader, row, past, count)
        self._read = (row, end)
        return top

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        """One new token for each of the rows 0..n-1, which hold ``lengths`` tokens before it."""
        rows = len(tokens)
        idle = [0] * (rows % 2) if self.in_pairs else []
        longest = max(lengths) + 1
        self._steps.reserve(longest)
        self._steps.set_inputs([*tokens, *idle], [*lengths, *idle], [*lengths, *idle], longest)
        top = self._steps.run(0, rows + len(idle), 1)
        return Top(top.logits[:rows], top.ids[:rows])

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row."""
        self._steps.copy_row(source, target, length)

    def end_profiling(self) -> list[Path]:
        """Write the profiles, in Chrome's trace format: of prompts, and of steps if these have a graph of their own."""
        graphs = {id(graph): graph for graph in (self._reader, self._steps)}
        return [Path(graph.sessions[0].end_profiling()) for graph in graphs.values()]

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

    def _threads_are_alike(self) -> bool:
        """Whether prompts and steps get the same bits from both sessions."""
        prompt = [token % self.vocabulary for token in range(min(40, self.capacity))]
        seen = set()
        for session in (0, 1):
            self._choose(session)
            read = self.prefill(0, prompt).logits.tobytes()
            seen.add((read, self.decode([0] * min(self.slots, 8), [0] * min(self.slots, 8)).logits.tobytes()))
        self._choose(0)
        return len(seen) == 1


def _check(path: Path, session: Any, architecture: Architecture) -> None:
    shapes = {node.name: node.shape for node in session.get_inputs()}
    layers = sum(name.startswith("past_key_") for name in shapes)
    cache = shapes.get("past_key_0", [None] * 4)
    found = (layers, cache[1], cache[3])
    if found != (architecture.layers, architecture.heads, architecture.head_dim):
        raise BundleError(
            f"{path} has (layers, heads, head_dim) {found}, which is not what bundle.json says: "
            f"export the bundle again with `python -m export CHECKPOINT BUNDLE`"
        )


def open_session(path: Path, threads: int, device: str = "cpu", profile: Path | None = None) -> Any:
    """A session with the options that serving uses. Raises BundleError, or DeviceError without the device."""
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"device {device!r} was asked for, but this installation of ONNX Runtime has no {provider}: "
            f"install promptdial[gpu] in place of promptdial[serve], or set 'cpu'"
        )
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN lie where pip put them, which the system's loader doesn't search
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads wait asleep between runs: two graphs take turns on the same cores, and the service needs them too.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
