"""The bytes of weights and scales that one decode step must read, from the decoder's graph."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def bytes_per_step(path: Path) -> int:
    """Sum over the initializers that are read whole; tables that are only gathered from give single rows."""
    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return sum(_size(each) for each in graph.initializer if readers.get(each.name, set()) != {"Gather"})


def _size(tensor: TensorProto) -> int:
    count = 1
    for dimension in tensor.dims:
        count *= dimension
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
