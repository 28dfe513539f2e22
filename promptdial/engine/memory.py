"""Where the KV cache lies: in this process' memory, or on a graphics card.

A buffer is (rows, heads, positions, head_dim), rows one after the other; it has an address for ``IOBinding``,
and rows of it can be copied. On a card, a copy is a one-node ONNX graph run over two addresses, so that
nothing but ONNX Runtime talks to the driver. Not measured on a card yet; the tests run the same code with
the CPU provider.
"""

from __future__ import annotations

import base64
import ctypes
import sys
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# ONNX, opset 13: y = Identity(x) over any number of bytes. Written out, since serving has no onnx package.
COPY_MODEL = base64.b64decode(
    "CAg6PAoQCgF4EgF5IghJZGVudGl0eRIEY29weVoQCgF4EgsKCQgCEgUKAxIBbmIQCgF5EgsKCQgCEgUKAxIBbkIECgAQDQ=="
)
Shape = tuple[int, int, int, int]


class Buffer(Protocol):
    """One layer's keys or values."""

    nbytes: int

    def address(self, row: int) -> int:
        """Where a row begins."""

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy at least the first ``length`` positions of a row."""

    def write(self, row: int, past: int, values: NDArray[Any]) -> None:
        """Set the positions of a row from ``past`` on to ``values`` (heads, tokens, head_dim)."""

    def grown(self, positions: int) -> Buffer:
        """A buffer with that many positions and the same contents."""


class HostBuffer:
    """A numpy array."""

    def __init__(self, shape: Shape, dtype: type[np.generic]) -> None:
        self._array: NDArray[Any] = np.zeros(shape, dtype)
        self.nbytes = self._array.nbytes

    def address(self, row: int) -> int:
        """Where a row begins."""
        return int(self._array[row:].ctypes.data)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row."""
        self._array[target, :, :length] = self._array[source, :, :length]

    def write(self, row: int, past: int, values: NDArray[Any]) -> None:
        """Set the positions of a row from ``past`` on."""
        self._array[row, :, past : past + values.shape[1]] = values

    def grown(self, positions: int) -> HostBuffer:
        """A buffer with that many positions and the same contents."""
        rows, heads, held, head_dim = self._array.shape
        grown = HostBuffer((rows, heads, positions, head_dim), self._array.dtype.type)
        grown._array[:, :, :held] = self._array
        return grown


class DeviceBuffer:
    """Memory of a provider's device; it can't grow."""

    def __init__(self, shape: Shape, dtype: type[np.generic], device: str, copier: Any) -> None:
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, 0)
        self._device, self._copier = device, copier
        self.nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._row_bytes = self.nbytes // shape[0]

    def address(self, row: int) -> int:
        """Where a row begins."""
        return int(self._value.data_ptr()) + row * self._row_bytes

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy a whole row."""
        binding = self._copier.io_binding()
        shape = [self._row_bytes]
        binding.bind_input("x", self._device, 0, np.uint8, shape, self.address(source))
        binding.bind_output("y", self._device, 0, np.uint8, shape, self.address(target))
        self._copier.run_with_iobinding(binding)

    def write(self, row: int, past: int, values: NDArray[Any]) -> None:
        """Raises ValueError: graphs for a device have one cache, which they write themselves."""
        raise ValueError(f"a buffer on {self._device} is written by its graph only")

    def grown(self, positions: int) -> DeviceBuffer:
        """Raises ValueError: on a device, room for the longest sequences is taken at the start."""
        raise ValueError(f"a buffer on {self._device} can't grow to {positions} positions")


class Memory:
    """Makes the buffers of one session."""

    def __init__(self, device: str, providers: list[str]) -> None:
        self.device = device
        self.on_host = device == "cpu"
        self._copier = None if self.on_host else onnxruntime.InferenceSession(COPY_MODEL, providers=providers)

    def buffer(self, shape: Shape, dtype: type[np.generic]) -> Buffer:
        """A new buffer of zeros."""
        if self.on_host:
            return HostBuffer(shape, dtype)
        return DeviceBuffer(shape, dtype, self.device, self._copier)


def give_back() -> None:
    """Return memory that was freed to the system; after loading 4-bit weights glibc would keep 600 MB."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
