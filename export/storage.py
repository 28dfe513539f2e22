"""The decoder's files: one graph, or one for each phase with their weights in a file beside them.

What ONNX calls external data, ONNX Runtime maps into memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.external_data_helper import set_external_data

from export.calibration import Calibration
from export.graph import build_decoder, build_prefill
from export.quantization import Floats
from promptdial.bundle import Architecture

LEAST_BYTES = 1024  # smaller tensors stay in their graphs
ALIGNMENT = 64  # bytes


def write_decoder(
    folder: Path,
    weights: dict[str, Floats],
    architecture: Architecture,
    forbidden: Sequence[int],
    precision: str,
    calibration: Calibration | None,
) -> dict[str, str]:
    """Write the files of a precision into ``folder``; their names, as the manifest's ``decoder`` has them."""
    files = {"precision": precision, "file": f"decoder.{precision}.onnx"}
    steps = build_decoder(weights, architecture, forbidden, precision, calibration=calibration)
    if calibration is None:
        onnx.save_model(steps, str(folder / files["file"]))
        return files
    files |= {"prefill": f"prefill.{precision}.onnx", "weights": f"weights.{precision}.bin"}
    prompts = build_prefill(weights, architecture, forbidden, precision, calibration)
    save_sharing({files["file"]: steps, files["prefill"]: prompts}, folder, files["weights"])
    return files


def save_sharing(models: Mapping[str, ModelProto], folder: Path, weights: str) -> None:
    """Write each model into ``folder`` under its name, and the tensors that all of them hold into ``weights``.

    Tensors are the same when name and bytes are; their types may differ (4-bit numbers, or two of them in a byte).
    """
    counts = Counter(tensor.name for model in models.values() for tensor in model.graph.initializer)
    placed: dict[str, tuple[int, bytes]] = {}
    with (folder / weights).open("wb") as file:
        for model in models.values():
            for tensor in model.graph.initializer:
                data = tensor.raw_data
                if counts[tensor.name] < len(models) or len(data) < LEAST_BYTES:
                    continue
                if tensor.name not in placed:
                    file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                    placed[tensor.name] = (file.tell(), data)
                    file.write(data)
                offset, written = placed[tensor.name]
                assert written == data, f"{tensor.name} differs between graphs"
                set_external_data(tensor, weights, offset, len(data))
                tensor.ClearField("raw_data")
    for name, model in models.items():
        onnx.save_model(model, str(folder / name))
