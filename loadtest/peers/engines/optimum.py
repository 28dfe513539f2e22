"""Optimum's ``ORTModelForCausalLM`` over its standard export, `text-generation-with-past`.

int8 is Optimum's dynamic quantization with a scale per channel of the weights, in the form for this CPU's
instructions. ONNX Runtime runs with its threads set and IO binding as Optimum chooses it.
"""

from __future__ import annotations

from pathlib import Path

from loadtest.peers.hf_generate import HfRunner
from loadtest.peers.worker import Runner

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "onnx", "transformers", "torch")


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Export, and quantize the exported graph for int8."""
    from optimum.exporters.onnx import main_export  # noqa: PLC0415

    main_export(str(checkpoint), str(model), task="text-generation-with-past", do_validation=False)
    if precision == "int8":
        from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415
        from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        pick = AutoQuantizationConfig.avx512_vnni if "avx512_vnni" in flags else AutoQuantizationConfig.avx2
        quantizer = ORTQuantizer.from_pretrained(str(model), file_name="model.onnx")
        quantizer.quantize(save_dir=str(model), quantization_config=pick(is_static=False, per_channel=True))
        (model / "model.onnx").unlink()


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """The exported or the quantized graph."""
    import onnxruntime  # noqa: PLC0415
    from optimum.onnxruntime import ORTModelForCausalLM  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    file = "model_quantized.onnx" if precision == "int8" else "model.onnx"
    return HfRunner(ORTModelForCausalLM.from_pretrained(model, file_name=file, session_options=options))
