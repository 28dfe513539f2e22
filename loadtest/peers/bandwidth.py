"""How fast two threads read memory: the floor under every decode step, which reads all weights once.

    python -m loadtest.peers.bandwidth

A probe reads a buffer as large as the weights, half of it on each thread, with a SIMD maximum over int32,
which releases the interpreter's lock and was the fastest of numpy's reductions. It takes milliseconds, so that
it can run between measurements: a machine's bandwidth changes with its neighbours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

REPEATS = 7
SIZES_MB = (100, 50)  # what int8 and int4 weights of the flagship take


class BandwidthProbe:
    """Buffers that stay allocated between probes, one per size in MB (10^6 bytes)."""

    def __init__(self, sizes_mb: Iterable[int] = SIZES_MB, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._parts = {size: np.array_split(np.ones(size * 250_000, np.int32), threads) for size in sizes_mb}

    def measure(self) -> dict[int, float]:
        """GB/s (10^9 bytes) by size: the median of a few reads."""
        return {size: self._read(size) for size in self._parts}

    def _read(self, size: int) -> float:
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            list(self._pool.map(np.max, self._parts[size]))
            seconds.append(time.perf_counter() - started)
        return size / 1000 / statistics.median(seconds)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


if __name__ == "__main__":
    for megabytes, speed in BandwidthProbe().measure().items():
        print(f"{megabytes} MB: {speed:.1f} GB/s")
