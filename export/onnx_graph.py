"""A small writer of ONNX graphs: named nodes in, a serialized model out.

Both graphs of a bundle, the decoder (``export.graph``) and the scorer (``export.scorer``), are written node
by node with it, so that what ONNX Runtime runs is exactly what stands in those two files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 21  # the first with 4-bit numbers
IR_VERSION = 10
MICROSOFT = "com.microsoft"
Array = NDArray[Any]


class GraphWriter:
    """Collects nodes and initializers; every node is named after its first output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def constant(self, name: str, value: Array) -> str:
        """Add an initializer (once: a second call with the same name returns the first)."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def packed(self, name: str, value: Array, kind: int, shape: Sequence[int]) -> str:
        """Add an initializer of a type that numpy lacks, from its bytes."""
        self.initializers[name] = helper.make_tensor(name, kind, list(shape), value.tobytes(), raw=True)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        return self.nodes_out(op, inputs, [output], domain, **attributes)[0]

    def nodes_out(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs and return their names."""
        made = helper.make_node(op, list(inputs), list(outputs), name=outputs[0], domain=domain, **attributes)
        self.nodes.append(made)
        return list(outputs)

    def model(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        metadata: dict[str, str] | None = None,
    ) -> ModelProto:
        """The finished model; ``metadata`` is for whoever opens it."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        made = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="promptdial"
        )
        helper.set_model_props(made, metadata or {})
        return made


def tensor(name: str, kind: int, shape: Sequence[int | str]) -> ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))
